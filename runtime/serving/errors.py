"""Errors in the shape of OpenAI's interface."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException

from runtime.serving.answers import ErrorBody, ErrorDetail
from s2d_trt.errors import BundleError, CapacityError, S2DError

_log = logging.getLogger(__name__)

TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
"""What OpenAI calls the kinds of errors; every other status is an ``invalid_request_error``."""
CLIENT_GONE = 499
"""The status that the access log has for a client that left before its answer; nothing is sent."""


class ApiError(Exception):
    """An answer with an error status. ``param`` names the field at fault, ``code`` the cause for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> ErrorBody:
        """What the client reads."""
        return ErrorBody(
            ErrorDetail(self.message, TYPES.get(self.status, "invalid_request_error"), self.param, self.code)
        )


class ClientGone(Exception):  # noqa: N818  not an error of this program
    """The client left; nobody reads an answer."""


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A body or a field that is wrong."""
    return ApiError(400, message, param, code)


def unavailable(message: str, code: str, seconds: int = 1) -> ApiError:
    """The server cannot answer now; the client may ask again after some ``seconds``."""
    return ApiError(503, message, code=code, headers={"Retry-After": str(seconds)})


def api_error(error: Exception) -> ApiError:
    """The answer to any exception. What is no fault of the client is logged."""
    match error:
        case ApiError():
            return error
        case HTTPException():  # of the router: no such path, or not with this method
            message = HTTPStatus(error.status_code).phrase.lower()
            return ApiError(error.status_code, message, headers=error.headers)
        case CapacityError():
            return bad_request(str(error), code="context_length_exceeded")
        case BundleError():  # well asked, but not of this target: it has no chat template
            return ApiError(422, str(error), code="unsupported_by_model")
        case S2DError():
            return bad_request(str(error), code="invalid_value")
        case _:
            _log.error("an answer failed", exc_info=error)
            return ApiError(500, "the server failed to answer; its log says why", code="internal_error")
