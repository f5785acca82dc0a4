"""The explorer's files: read once at the start, looked up by name, revalidated by what they contain."""

from __future__ import annotations

import hashlib
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
}


@dataclass(frozen=True)
class StaticFile:
    """A file as it is sent; ``etag`` changes with its content alone."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, file: Traversable) -> StaticFile:
        """A file of the package; its type is told by its suffix."""
        content = file.read_bytes()
        return cls(content, _TYPES[PurePosixPath(file.name).suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def response(self, request: Request) -> Response:
        """The file, or 304 where the caller has it."""
        headers = {**_HEADERS, "etag": self.etag}
        known = request.headers.get("if-none-match", "").replace("W/", "").split(",")
        if self.etag in map(str.strip, known):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


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
