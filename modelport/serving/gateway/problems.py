"""Errors of the API: a status, a reason that programs read, a message for people."""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, Field

from modelport.imaging import Reason as ImageReason


class Reason(StrEnum):
    """Why a request was not answered."""

    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_RELEASE = "unknown_release"
    AMBIGUOUS_RELEASE = "ambiguous_release"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INVALID_PARAMETER = "invalid_parameter"
    MALFORMED_UPLOAD = "malformed_upload"
    MISSING_IMAGE = "missing_image"
    NOT_MULTIPART = "not_multipart"
    UPLOAD_TOO_SLOW = "upload_too_slow"
    DISCONNECTED = "disconnected"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"
    BUSY = "busy"
    NO_RELEASE_READY = "no_release_ready"
    SERVER_AWAY = "server_away"
    INFERENCE_FAILED = "inference_failed"
    WRONG_OUTPUTS = "wrong_outputs"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


class Problem(BaseModel):
    """Why a request was not answered."""

    reason: Reason = Field(description="What programs should look at.")
    message: str = Field(description="What people should read.")
    request_id: str = Field(description="Names this request in logs and records; also in the X-Request-ID header.")


@dataclass
class ProblemError(Exception):
    """Ends a request with a `Problem`."""

    status: int
    reason: Reason
    message: str
    retry_after: int | None = None
    """Seconds after which to try again, for a passing problem."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


IMAGE_STATUS: dict[ImageReason, int] = {
    ImageReason.EMPTY: 400,
    ImageReason.TOO_LARGE: 413,
    ImageReason.TOO_MANY_PIXELS: 413,
    ImageReason.NOT_AN_IMAGE: 415,
    ImageReason.UNSUPPORTED: 415,
    ImageReason.TRUNCATED: 422,
}
"""HTTP status of each thing that may be wrong with an image."""

DOCUMENTED: dict[int, str] = {
    400: "The upload is malformed, or the image is empty: malformed_upload, empty.",
    401: "No key, or one that nobody holds: unauthorized.",
    404: "No such model, or no such release of it is loaded: unknown_model, unknown_release.",
    408: "The upload took too long: upload_too_slow.",
    413: "More bytes or pixels than are taken: too_large, too_many_pixels.",
    415: "Neither JPEG nor PNG, or not a multipart upload: not_an_image, unsupported, not_multipart.",
    422: "A damaged image, no field `image`, or a bad parameter: truncated, missing_image, invalid_parameter, "
    "ambiguous_release.",
    500: "A fault of the gateway: internal.",
    502: "The model failed on this input, or gave what is no answer: inference_failed, wrong_outputs.",
    503: "Try again after Retry-After seconds: busy, no_release_ready, server_away.",
    504: "The inference took too long: deadline_exceeded.",
}
"""Every error status that predictions may answer with."""
