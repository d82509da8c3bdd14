"""TensorFlow's file systems for datasets at a URL. TensorFlow is loaded only when it is needed."""

from __future__ import annotations

import os

from tfpipe import lanes
from tfpipe.data.manifest import Folder
from tfpipe.errors import TfpipeError, translate_os_errors
from tfpipe.files import http
from tfpipe.files.remote import is_remote, join
from tfpipe.process import exit_status

# The environment variables of tensorflow-io's s3://, and those of boto3, which everything else here reads.
_VARIABLES = (
    ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"),
    ("S3_ENDPOINT", "AWS_ENDPOINT_URL"),
    ("AWS_REGION", "AWS_DEFAULT_REGION"),
)


def use_file_system(folder: Folder, *, shard: str) -> None:
    """Makes TensorFlow able to read a dataset's shards where they are.

    Args:
        folder: dataset folder, local or a URL.
        shard: name of one of its shards, which is used to try out a web server.

    Raises:
        TfpipeError: this TensorFlow or the web server cannot do that; the message says what can.
    """
    if not is_remote(folder):
        return
    url = str(folder)
    scheme = url.partition("://")[0]
    use_tensorflow_io(scheme)
    import tensorflow as tf

    if scheme not in tf.io.gfile.get_registered_schemes():
        raise TfpipeError(
            f"{url}: TensorFlow {tf.__version__} as installed here does not read {scheme}://; use --cache DIR, or the "
            f"default lane (TensorFlow {lanes.LANES['default']['tensorflow']} with "
            f"tensorflow-io {lanes.LANES['default']['tensorflow-io']})"
        )
    first = join(url, shard)
    with translate_os_errors(first):
        if http.is_web(url) and not http.gives_ranges(first):
            raise TfpipeError(
                f"{url}: this web server sends whole files only, but TensorFlow needs parts of them (Range requests); "
                "use --cache DIR, or another server"
            )


def use_tensorflow_io(scheme: str = "") -> None:
    """Adds s3:// and http:// to TensorFlow's file systems, if tensorflow-io has them for this TensorFlow.

    Args:
        scheme: what will be read; after `s3`, the process ends without TensorFlow's clean-up, which would crash.
    """
    if scheme == "s3":
        exit_status.skip_cleanup()
    for name, boto3_name in _VARIABLES:
        if value := os.environ.get(boto3_name):
            os.environ.setdefault(name, value)
    if lanes.tensorflow_io_loads(lanes.installed_version("tensorflow")) and lanes.installed_version("tensorflow-io"):
        import tensorflow_io  # noqa: F401  registers the file systems
