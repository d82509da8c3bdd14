"""Chooses the Beam runner, checks the options before anything starts, and cancels jobs on clusters.

Nothing is downloaded. Beam's own defaults would download a local runner, or a
job server if none is given.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.environments import EmbeddedPythonEnvironment, SubprocessSDKEnvironment

from tfpipe.errors import TfpipeError

_LOCAL = {"", "direct", "fnapi", "bundlebaseddirect", "switchingdirect"}
# By runner, the option that gives the file which Beam would otherwise download.
_SERVERS = {"flink": "flink_job_server_jar", "spark": "spark_job_server_jar", "prism": "prism_location"}
_ENDED = {"FINISHED", "FAILED", "CANCELED"}
_REST_TIMEOUT_S = 5.0


class _Options(PipelineOptions):
    """Beam options that refuse an option which the job server does not know; Beam would ignore it."""

    def get_all_options(
        self,
        *args: Any,
        add_extra_args_fn: Callable[[Any], None] | None = None,
        retain_unknown_options: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Returns the options by name, as Beam's method does; `add_extra_args_fn` adds the job server's options."""

        def add_and_check(parser: argparse.ArgumentParser) -> None:
            if add_extra_args_fn is not None:
                add_extra_args_fn(parser)
                _refuse_unknown(parser, self._flags)

        check = add_extra_args_fn if retain_unknown_options else add_and_check
        found: dict[str, Any] = super().get_all_options(
            *args, add_extra_args_fn=check, retain_unknown_options=retain_unknown_options, **kwargs
        )
        return found


def parse_options(arguments: Sequence[str]) -> PipelineOptions:
    """Reads the options after `--`.

    Raises:
        TfpipeError: a value is invalid, an option is unknown, or no job server is given. Options that
            only a job server knows are checked once it runs.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            options = _Options(list(arguments))
            name = _name(options)
            server_knows_more = name in (*_SERVERS, "portable")
            options.get_all_options(add_extra_args_fn=None if server_knows_more else lambda parser: None)
    except SystemExit as stop:
        message = printed.getvalue().strip().rpartition("error: ")[2] or "--help starts no job"
        raise TfpipeError(f"options after --: {message}") from stop
    if name in _SERVERS and not options.view_as(PortableOptions).job_endpoint:
        _check_server(name, options)
    if name in ("flink", "portable"):
        # A unique name, by which `canceller` finds the job.
        cloud = options.view_as(GoogleCloudOptions)
        cloud.job_name = f"{cloud.job_name or 'tfpipe'}-{uuid.uuid4().hex[:12]}"
    return options


def local_runner(options: PipelineOptions, *, workers: int) -> FnApiRunner | None:
    """Returns the runner for this machine, or None if the options name another runner."""
    if _name(options) not in _LOCAL:
        return None
    direct = options.view_as(DirectOptions)
    if "direct_num_workers" not in options.get_all_options(drop_default=True) and workers > 1:
        direct.direct_num_workers = workers
    if direct.direct_num_workers == 1:
        return FnApiRunner(default_environment=EmbeddedPythonEnvironment.default())
    command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    return FnApiRunner(default_environment=SubprocessSDKEnvironment.from_command_string(command))


def canceller(options: PipelineOptions) -> Callable[[PipelineResult], None]:
    """Returns a function that cancels a started job on its cluster, if the cluster can be reached.

    Call this before the job starts. On Flink the function asks Flink itself,
    because Beam's job server reports a batch job as cancelled and leaves it
    running (seen with version 2.62).
    """
    master = options.view_as(FlinkRunnerOptions).flink_master.strip()
    name = options.view_as(GoogleCloudOptions).job_name

    def cancel(result: PipelineResult) -> None:
        if not master.startswith("["):  # [local] and [auto] end with the job server
            _attempt(lambda: _cancel_on_flink(master if "://" in master else f"http://{master}", name))
        _attempt(result.cancel)

    return cancel


def _name(options: PipelineOptions) -> str:
    """Returns the runner's short name: `flink` for `FlinkRunner`, `flink` or the full class path."""
    name = options.view_as(StandardOptions).runner or ""
    return name.rpartition(".")[2].lower().removesuffix("runner")


def _check_server(runner: str, options: PipelineOptions) -> None:
    option = _SERVERS[runner]
    path = options.get_all_options(retain_unknown_options=True).get(option)
    if not path:
        endpoint = "" if runner == "prism" else " or --job_endpoint=HOST:PORT"
        raise TfpipeError(
            f"options after --: this runner needs --{option}=FILE{endpoint}; tfpipe downloads nothing "
            "(docs/RUNNERS.md says how to get the file)"
        )
    if not os.path.isfile(path):
        raise TfpipeError(f"--{option}={path}: no such file; docs/RUNNERS.md says how to get it")
    java = options.view_as(JobServerOptions)
    if runner != "prism" and shutil.which(java.job_server_java_launcher) is None:
        raise TfpipeError(f"{java.job_server_java_launcher}: no such program; the job server needs Java 11 or 17")
    # Into the folder of this job's other temporary files, which is removed at the end.
    java.job_server_jvm_properties = [f"-Djava.io.tmpdir={tempfile.gettempdir()}", *java.job_server_jvm_properties]


def _refuse_unknown(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    _, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise TfpipeError(f"options after --: the runner knows no {unknown[0].partition('=')[0]}; check its name")


def _attempt(cancel: Callable[[], Any]) -> None:
    try:
        cancel()
    except Exception:
        logging.warning("could not cancel the job; it may still run on its cluster", exc_info=True)


def _cancel_on_flink(url: str, name: str) -> None:
    """Cancels the jobs with a given name (https://nightlies.apache.org/flink/flink-docs-stable/docs/ops/rest_api/)."""
    with urllib.request.urlopen(f"{url}/jobs/overview", timeout=_REST_TIMEOUT_S) as reply:
        jobs = json.load(reply)["jobs"]
    for job in jobs:
        if job["name"] == name and job["state"] not in _ENDED:
            request = urllib.request.Request(f"{url}/jobs/{job['jid']}", method="PATCH")
            urllib.request.urlopen(request, timeout=_REST_TIMEOUT_S).close()
