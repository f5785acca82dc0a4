"""What comes in over HTTP: a bounded body that is JSON, a form with a file, a text, or the bytes of an image."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Concatenate, ParamSpec, TypeVar

from google.protobuf.message import Message
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from proponent.errors import BodyTimeoutError, BodyTooLargeError, InvalidInputError, UnsupportedMediaTypeError
from proponent.gateway.bound import Bound
from proponent.gateway.http.instances import (
    Instance,
    instance_of_image,
    instance_of_text,
    instances_of_json,
    message_of_json,
    option_bytes,
)
from proponent.gateway.http.offload import Offload
from proponent.gateway.http.protojson import M
from proponent.gateway.limits.body_budget import Reservation
from proponent.gateway.settings import Settings

JSON = "application/json"
FORM = "multipart/form-data"
IMAGES = ("image/png", "image/jpeg")
TEXT = "text/plain"
_FORM_FIELDS = 64
_PIECE = 256 << 10
P = ParamSpec("P")
T = TypeVar("T")


class BodyReader:
    """Reads bodies within their bounds and turns them into messages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._offload = Offload()

    async def instances(
        self, request: Request, reservation: Reservation, kind: type[Message], model: str
    ) -> list[Instance]:
        """The inputs of a predict or explain request, in any of its forms.

        Raises:
            InvalidInputError: No such form, no input, or more of them than allowed.
            OverloadedError: The budget for bodies is spent.
        """
        content_type = _require_type(request, (JSON, FORM, TEXT, *IMAGES))
        body = await self._read(request, reservation)
        if content_type == JSON:
            most = self._settings.max_instances
            return await self._offload.run(len(body), instances_of_json, body, kind, model, most)
        options = list(request.query_params.multi_items())
        if content_type == TEXT:
            return [await self._offload.run(len(body), instance_of_text, body, options, kind, model)]
        if content_type == FORM:
            body, rest = await _read_form(request, body)
            options += rest
        # The image itself needs no reading; what is large here are options.
        return [await self._offload.run(option_bytes(options), instance_of_image, body, options, kind, model)]

    async def message(self, request: Request, reservation: Reservation, kind: type[M], model: str) -> M:
        """The message of a call about one input and a group of examples."""
        return await self.converted(request, reservation, (JSON,), message_of_json, kind, model)

    async def converted(
        self,
        request: Request,
        reservation: Reservation,
        accepted: tuple[str, ...],
        convert: Callable[Concatenate[bytes, P], T],
        *values: P.args,
        **named: P.kwargs,
    ) -> T:
        """What a function makes of a body of one of the accepted types; what it needs must be picklable."""
        _require_type(request, accepted)
        body = await self._read(request, reservation)
        return await self._offload.run(len(body), convert, body, *values, **named)

    async def _read(self, request: Request, reservation: Reservation) -> bytes:
        """The whole body; reading stops where it is too large or too slow."""
        limit, declared = self._settings.max_body_bytes, request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        async for part in self._parts(request):
            reservation.add(len(part))
            if reservation.size > limit:
                raise _too_large(limit)
            parts.append(part)
        if not reservation.size:
            raise InvalidInputError("request body is empty", field="body", reason="BODY_EMPTY")
        return b"".join(parts)

    async def _parts(self, request: Request) -> AsyncIterator[bytes]:
        idle_s, whole_s = self._settings.idle_timeout, self._settings.transfer_timeout
        parts, clock = request.stream(), asyncio.get_running_loop().time
        end = clock() + whole_s
        try:
            while True:
                with Bound(min(idle_s, end - clock())):
                    part = await anext(parts, None)
                if part is None:
                    return
                yield part
        except TimeoutError:
            message = f"request body did not arrive within {whole_s:g} s, or had a pause of {idle_s:g} s"
            raise BodyTimeoutError(message, field="body") from None


class _MemoryParser(MultiPartParser):
    """Keeps files in memory: the whole body is there already."""

    spool_max_size = 0


async def _read_form(request: Request, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """The file of a form, and its other fields."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _PIECE):
            yield body[start : start + _PIECE]
            await asyncio.sleep(0)

    parser = _MemoryParser(request.headers, pieces(), max_files=1, max_fields=_FORM_FIELDS, max_part_size=len(body))
    try:
        form = await parser.parse()
    except (MultiPartException, HTTPException, KeyError) as error:
        message = f"form cannot be read: {getattr(error, 'message', error)}"
        raise InvalidInputError(message, field="body", reason="FORM_INVALID") from None
    try:
        return await _image_of(form), [(k, v) for k, v in form.multi_items() if k != "image" and isinstance(v, str)]
    finally:
        await form.close()


async def _image_of(form: FormData) -> bytes:
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise InvalidInputError("form has no file field 'image'", field="image", reason="INPUT_MISSING")
    return await image.read()


def _require_type(request: Request, accepted: tuple[str, ...]) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in accepted:
        raise _unsupported("content-type", kind or "missing", ", ".join(accepted))
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise _unsupported("content-encoding", encoding, "none")
    return kind


def _unsupported(header: str, value: str, expected: str) -> InvalidInputError:
    message = f"{header.replace('-', ' ')} is {value}, expected {expected}"
    return UnsupportedMediaTypeError(message, field=header)


def _too_large(limit: int) -> InvalidInputError:
    return BodyTooLargeError(f"request body is larger than {limit} bytes", field="body")
