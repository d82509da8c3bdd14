"""Checks whether a server speaks TensorFlow Serving's API as clients of `tfpipe export`'s models need it.

The server may be ours or any other that serves such a model. Status codes must be equal, messages must contain the
essential words, and answers are compared with each other. The checks load no TensorFlow and do no harm: they load and
unload nothing and do not overload the server.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import grpc

from serving.checks.model_cases import model_cases
from serving.checks.predict_cases import predict_cases
from serving.checks.probe import Differs, Probe, Target
from serving.checks.rest_cases import rest_cases
from serving.client.client import Client
from tfpipe.errors import TfpipeError

__all__ = ["Target", "conformance"]


def conformance(target: Target) -> Iterator[tuple[str, str]]:
    """Runs all checks.

    Yields:
        The name of each check, and how the server differs; the text is empty if it does not.

    Raises:
        ServingError: no server answers, or it does not serve a model of `tfpipe export` under that name.
    """
    with ExitStack() as stack:
        client = stack.enter_context(Client(target.grpc, model=target.model, timeout_s=target.timeout_s))
        probe = Probe(target, client)
        stack.callback(probe.channel.close)
        cases = itertools.chain(predict_cases(probe), model_cases(probe), rest_cases(probe) if target.rest else ())
        # All cases are made before the first is run, because making one can fail too.
        for name, check in list(cases):
            try:
                check()
            except Differs as error:
                yield name, str(error)
            except (grpc.RpcError, TfpipeError, OSError, KeyError, ValueError) as error:
                yield name, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            else:
                yield name, ""
