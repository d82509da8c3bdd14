"""An S3 client for Beam with what Beam's own lacks.

It uses one connection for a process and short timeouts, reports a missing bucket
or wrong credentials at once, and can write empty objects. `tfpipe.files.remote`
imports this module only for s3://; it needs boto3 (the extra `aws`).
"""

from __future__ import annotations

import functools
from typing import Any

import boto3
from apache_beam.io.aws.clients.s3 import boto3_client, messages
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from tfpipe.errors import TfpipeError

_PATIENT = Config(connect_timeout=5, retries={"mode": "standard"})
# For the first request: an endpoint that does not answer is an error after 20 s.
_QUICK = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403")
_NO_BUCKET = ("NoSuchBucket", "404")
_answered: set[str] = set()


def install() -> None:
    """Makes Beam's S3 file system use `Client`."""
    boto3_client.Client = Client


def require_bucket(url: str, options: PipelineOptions) -> None:
    """Sends one small request to a bucket, the first time it is used in this process.

    Without it Beam would treat a missing bucket as an empty one, and retry for ten minutes without credentials.

    Args:
        url: any URL in the bucket.
        options: Beam's options.

    Raises:
        TfpipeError: the bucket does not exist, the credentials are missing or wrong, or the store does not answer.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if bucket in _answered:
        return
    try:
        Client(options, config=_QUICK).client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)
    except (NoCredentialsError, PartialCredentialsError) as error:
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise TfpipeError(f"s3://{bucket}: no credentials ({error}); {fix}") from error
    except ClientError as error:
        raise TfpipeError(f"s3://{bucket}: {_refusal(error)}") from error
    except (BotoCoreError, ValueError) as error:
        where = "check the bucket's name, the network, AWS_ENDPOINT_URL and AWS_REGION"
        raise TfpipeError(f"s3://{bucket}: out of reach ({error}); {where}") from error
    _answered.add(bucket)


class Client(boto3_client.Client):
    """Beam's client, but with one connection for the whole process.

    Beam makes a client for each request, which costs boto3 0.1 s of CPU time.
    """

    def __init__(self, options: PipelineOptions, config: Config = _PATIENT) -> None:
        given = options.view_as(S3Options)
        self.client = _connection(
            config=config,
            region_name=given.s3_region_name,
            api_version=given.s3_api_version,
            use_ssl=not given.s3_disable_ssl,
            verify=given.s3_verify,
            endpoint_url=given.s3_endpoint_url,
            aws_access_key_id=given.s3_access_key_id,
            aws_secret_access_key=given.s3_secret_access_key,
            aws_session_token=given.s3_session_token,
        )
        self._download_request = self._download_stream = None
        self._download_pos = 0

    def complete_multipart_upload(self, request: Any) -> None:
        """Ends an upload. S3 requires at least one part, but Beam sends none for an empty file; this adds it."""
        if not request.parts:
            empty = messages.UploadPartRequest(request.bucket, request.object, request.upload_id, 1, b"")
            request.parts = [{"ETag": self.upload_part(empty).etag, "PartNumber": 1}]
        super().complete_multipart_upload(request)


@functools.cache
def _connection(**options: Any) -> Any:
    """Returns boto3's client; threads may share it."""
    return boto3.session.Session().client("s3", **options)


def _refusal(error: ClientError) -> str:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _NO_BUCKET:
        return "no such bucket; check its name and AWS_ENDPOINT_URL, or make it first"
    if code in _DENIED:
        return f"access denied ({code}); check the AWS_* credentials and what they may do with this bucket"
    return f"refused ({error}); check the bucket's name, its region and the credentials"
