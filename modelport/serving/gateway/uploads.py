"""Uploads: counted while they arrive, so that no more than the limit is ever read into memory."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from modelport.serving.gateway.problems import ProblemError, Reason

IMAGE_FIELD = "image"
_ENVELOPE = 64 * 1024
"""Bytes that boundaries, headers and small fields may take beside the image."""
_MAX_FIELDS = 16


async def read_image(request: Request, max_bytes: int, seconds: float) -> bytes:
    """Bytes of the multipart field ``image``.

    Raises:
        ProblemError: not multipart, no such field, malformed, too large, too slow, or the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        message = f"send multipart/form-data with a file field `{IMAGE_FIELD}`, not {kind or 'that'}"
        raise ProblemError(415, Reason.NOT_MULTIPART, message)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes + _ENVELOPE:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(seconds):
            data = await _parsed(request, max_bytes)
    except TimeoutError:
        raise ProblemError(408, Reason.UPLOAD_TOO_SLOW, f"the upload took more than {seconds:g} s") from None
    except ClientDisconnect:
        raise ProblemError(400, Reason.DISCONNECTED, "the client went away during its upload") from None
    except MultiPartException as error:
        raise ProblemError(400, Reason.MALFORMED_UPLOAD, f"the upload is malformed: {error.message}") from None
    request.state.upload_read = True
    return data


async def _parsed(request: Request, max_bytes: int) -> bytes:
    parser = MultiPartParser(
        request.headers,
        _counted(request, max_bytes),
        max_files=_MAX_FIELDS,
        max_fields=_MAX_FIELDS,
        max_part_size=_ENVELOPE,
    )
    # Above this Starlette would write the upload to a temporary file: patients' images stay in memory.
    parser.spool_max_size = max_bytes + 2 * _ENVELOPE
    form = await parser.parse()
    try:
        files = [value for value in form.getlist(IMAGE_FIELD) if isinstance(value, UploadFile)]
        if len(files) != 1:
            found = "more than one" if files else "no"
            raise ProblemError(422, Reason.MISSING_IMAGE, f"there is {found} file field `{IMAGE_FIELD}` in the upload")
        data = await files[0].read()
    finally:
        await form.close()
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


async def _counted(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > max_bytes + _ENVELOPE:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError(413, Reason.TOO_LARGE, f"the upload is larger than the {max_bytes} bytes that are taken")
