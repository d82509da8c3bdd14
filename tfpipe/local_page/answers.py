"""Answers of a page's endpoints: an error is a JSON object with one sentence that says what is wrong, and the fix."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tfpipe.errors import TfpipeError, UsageError, os_error_message

_LOG = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]
# Errors with a status of their own: the status, and what is added to the error's text.
Statuses = Mapping[type[TfpipeError], tuple[int, str]]


def answered(endpoint: Endpoint, *, statuses: Statuses) -> Endpoint:
    """Returns an endpoint that answers with JSON when it fails.

    Args:
        endpoint: may raise.
        statuses: for errors that are neither wrong requests (400) nor work that fails (422).
    """

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except TfpipeError as error:
            usual = (400, "") if isinstance(error, UsageError) else (422, "")
            status, more = next((found for kind, found in statuses.items() if isinstance(error, kind)), usual)
            return failed(f"{error}{more}", status)
        except ClientDisconnect:
            return failed("the page has left", 499)
        except OSError as error:
            return failed(os_error_message(error, error.filename or "the page's folder"), 507)
        except Exception as error:  # the page must hear of it, and the program go on
            _LOG.exception("%s failed", request.url.path)
            return failed(f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}", 500)

    return answer


def failed(text: str, status: int) -> Response:
    """Returns the answer to a request that failed."""
    return JSONResponse({"error": text}, status_code=status)
