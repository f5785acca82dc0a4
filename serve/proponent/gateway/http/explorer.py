"""The explorer's files: read and compressed once at the start, looked up by name, revalidated by their content."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_PAGE = "index.html"
_ZERO = re.compile(r"0(\.0*)?")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # A page of one version must never load a module of another: browsers ask each time, and mostly hear 304.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


@dataclass(frozen=True)
class StaticFile:
    """A file of which callers get the bytes or, where they take it, the gzip; ``digest`` is that of the bytes."""

    content: bytes
    compressed: bytes
    media_type: str
    digest: str

    @classmethod
    def read(cls, file: Traversable) -> StaticFile:
        """A file of the package; its type is told by its suffix."""
        content = file.read_bytes()
        media_type = _TYPES[PurePosixPath(file.name).suffix]
        return cls(content, gzip.compress(content, mtime=0), media_type, hashlib.sha256(content).hexdigest()[:32])

    def response(self, request: Request) -> Response:
        """The file, or 304 where the caller has it."""
        compressed = _takes_gzip(request.headers.get("accept-encoding", ""))
        etag = f'"{self.digest}-gzip"' if compressed else f'"{self.digest}"'
        headers = {**_HEADERS, "etag": etag}
        known = request.headers.get("if-none-match", "").replace("W/", "").split(",")
        if etag in map(str.strip, known):
            return Response(status_code=304, headers=headers)
        if compressed:
            headers["content-encoding"] = "gzip"
        return Response(self.compressed if compressed else self.content, media_type=self.media_type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether a header names gzip, and not with the weight of 0 (RFC 9110, 12.5.3)."""
    named = (each.replace(" ", "").lower().partition(";q=") for each in accepted.split(","))
    return any(name == "gzip" and not _ZERO.fullmatch(weight) for name, _, weight in named)


def route_explorer(app: FastAPI) -> None:
    """Adds the page and its files; they hold no data, so that no token is asked for."""
    found = dict(_read(files("proponent") / "explorer" / "static"))
    page = found.pop(_PAGE)

    async def explorer_page(request: Request) -> Response:
        return page.response(request)

    async def explorer_file(request: Request) -> Response:
        file = found.get(request.path_params["path"])
        if file is None:
            raise HTTPException(404)
        return file.response(request)

    app.add_route("/", explorer_page)
    app.add_route("/explorer/{path:path}", explorer_file)


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, StaticFile]]:
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _read(entry, f"{name}/")
        else:
            yield name, StaticFile.read(entry)
