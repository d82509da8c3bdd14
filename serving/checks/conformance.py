"""Checks whether a server speaks TensorFlow Serving's API.

The server may be ours or any other. It serves a model of `tfpipe export`, or the one that `serving.checks.api_model`
writes, or both. Status codes must be equal, messages must contain the essential words, and answers are compared with
each other. The checks load no TensorFlow and do no harm: they load and unload nothing and do not overload the server.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import grpc

from serving.checks.example_cases import example_cases
from serving.checks.json_cases import json_cases
from serving.checks.model_cases import model_cases
from serving.checks.path_cases import path_cases
from serving.checks.predict_cases import predict_cases
from serving.checks.probe import Asker, Case, Differs, Probe, Target
from serving.checks.rest_cases import rest_cases
from serving.checks.tensor_cases import tensor_cases
from serving.client.client import Client
from tfpipe.errors import TfpipeError

__all__ = ["Target", "api_conformance", "conformance"]


def conformance(target: Target) -> Iterator[tuple[str, str]]:
    """Runs the checks of a model of `tfpipe export`.

    Yields:
        The name of each check, and how the server differs; the text is empty if it does not.

    Raises:
        ServingError: no server answers, or it does not serve a model of `tfpipe export` under that name.
    """
    with ExitStack() as stack:
        client = stack.enter_context(
            Client(target.grpc, model=target.model, timeout_s=target.timeout_s, token=target.token)
        )
        probe = Probe(target, client)
        stack.callback(probe.channel.close)
        cases = itertools.chain(predict_cases(probe), model_cases(probe), rest_cases(probe) if target.rest else ())
        # All cases are made before the first is run, because making one can fail too.
        yield from _found(list(cases))


def api_conformance(target: Target) -> Iterator[tuple[str, str]]:
    """Runs the checks of the API on the model of `serving.checks.api_model`; yields as `conformance` does."""
    asker = Asker(target)
    with contextlib.closing(asker.channel):
        rest = json_cases(asker) if target.rest else ()
        yield from _found(itertools.chain(tensor_cases(asker), example_cases(asker), path_cases(asker), rest))


def _found(cases: Iterable[Case]) -> Iterator[tuple[str, str]]:
    for name, check in cases:
        try:
            check()
        except Differs as error:
            yield name, str(error)
        except (grpc.RpcError, TfpipeError, OSError, KeyError, TypeError, ValueError) as error:
            yield name, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            yield name, ""
