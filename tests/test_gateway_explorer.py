"""The page's files over HTTP: strict headers, right types, revalidation, nothing outside of them, off where told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_fakes import Service
from proponent.gateway.http.app import create_app
from proponent.gateway.served_model import Readiness
from proponent.gateway.settings import Settings
from tokens import knowing

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "serve/proponent/explorer/static"
PATHS = ["/", *(f"/explorer/{path.relative_to(STATIC)}" for path in sorted(STATIC.rglob("*.js")))]

Send = Callable[..., httpx.Response]


def sender(service: Service) -> Send:
    app = create_app(service.calls, service.metrics, Readiness(service.models), service.settings)

    def send(path: str, method: str = "GET", **headers: str) -> httpx.Response:
        async def request() -> httpx.Response:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.request(method, path, headers=named)

        return asyncio.run(request())

    return send


@pytest.fixture
def get(tmp_path: Path) -> Iterator[Send]:
    service = Service(tmp_path)
    yield sender(service)
    service.close()


def off(tmp_path: Path, **settings: Any) -> httpx.Response:
    service = Service(tmp_path, **settings)
    try:
        return sender(service)("/")
    finally:
        service.close()


@pytest.mark.parametrize("path", PATHS)
def test_headers_keep_the_page_to_its_own_origin(get: Send, path: str) -> None:
    reply = get(path)
    assert reply.status_code == 200
    policy = dict(rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' blob:"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/explorer/vendor/preact.js", "text/javascript; charset=utf-8"),
        ("/explorer/vendor/uplot.css", "text/css; charset=utf-8"),
        ("/explorer/vendor/preact.LICENSE.txt", "text/plain; charset=utf-8"),
        ("/explorer/vendor/VENDOR.json", "application/json"),
    ],
)
def test_types_are_those_that_browsers_insist_on(get: Send, path: str, media_type: str) -> None:
    assert get(path).headers["content-type"] == media_type
    plain = {"accept_encoding": "identity"}
    assert get(path, "HEAD", **plain).headers["content-length"] == str(len(get(path, **plain).content))


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br, zstd", "gzip"),
        ("br;q=1.0, GZIP; q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.000, br", None),
        ("br, xgzip", None),
        ("", None),
    ],
)
def test_files_are_compressed_for_those_who_take_that(get: Send, accepted: str, encoding: str | None) -> None:
    path = "/explorer/vendor/preact.js"
    file = (STATIC / "vendor/preact.js").read_bytes()
    reply = get(path, accept_encoding=accepted)
    assert (reply.headers.get("content-encoding"), reply.headers["vary"]) == (encoding, "accept-encoding")
    assert reply.content == file
    assert (int(reply.headers["content-length"]) < len(file) / 2) == (encoding == "gzip")
    other = get(path, accept_encoding="identity" if encoding else "gzip").headers["etag"]
    assert reply.headers["etag"] != other
    assert get(path, accept_encoding=accepted, if_none_match=other).status_code == 200


def test_a_browser_that_has_a_file_is_told_so(get: Send) -> None:
    first = get("/explorer/vendor/htm.js")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f'"other", W/{tag}'):
        again = get("/explorer/vendor/htm.js", if_none_match=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert get("/explorer/vendor/htm.js", if_none_match='"other"').content == first.content
    assert get("/explorer/vendor/hooks.js").headers["etag"] != tag


@pytest.mark.parametrize(
    "path",
    [
        "/explorer/",
        "/explorer/index.html",
        "/explorer/vendor",
        "/explorer/../__init__.py",
        "/explorer/..%2f__init__.py",
        "/explorer/%2e%2e/%2e%2e/errors.py",
        "/explorer//etc/passwd",
        "/explorer/vendor/../../__init__.py",
        "/explorer/nothing.js",
    ],
)
def test_nothing_else_is_served(get: Send, path: str) -> None:
    reply = get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")


def test_files_are_only_read(get: Send) -> None:
    for path in ("/", "/explorer/vendor/htm.js"):
        assert get(path, "POST").status_code == 405


def test_the_page_needs_no_token_and_its_calls_do(tmp_path: Path) -> None:
    service = Service(tmp_path, knowing(tmp_path / "tokens", {"secret": "explain"}))
    get = sender(service)
    assert get("/").status_code == get("/explorer/vendor/htm.js").status_code == 200
    assert get("/v1/models").status_code == 401
    assert get("/v1/models", authorization="Bearer secret").status_code == 200
    service.close()


@pytest.mark.parametrize(
    ("address", "served"),
    [
        ("127.0.0.1:8080", True),
        ("127.8.0.1:8080", True),
        ("localhost:8080", True),
        ("[::1]:8080", True),
        ("0.0.0.0:8080", False),
        ("[::]:8080", False),
        ("10.0.0.1:8080", False),
        ("example.org:8080", False),
    ],
)
def test_is_served_by_default_on_loopback_alone(address: str, served: bool) -> None:
    assert Settings(http_address=address, insecure=True).serves_explorer is served
    assert Settings(http_address=address, insecure=True, explorer=True).serves_explorer
    assert not Settings(http_address=address, insecure=True, explorer=False).serves_explorer


def test_is_not_found_where_it_is_off(tmp_path: Path) -> None:
    reply = off(tmp_path, explorer=False)
    assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")
    assert reply.json()["reason"] == "PATH_UNKNOWN"


def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = [path.relative_to(ROOT / "serve") for path in (ROOT / "serve").rglob("*") if path.is_file()]
    files = {path.as_posix() for path in package if "__pycache__" not in path.parts}
    assert {path.relative_to(ROOT / "serve").as_posix() for path in STATIC.rglob("*.js")} < files
    assert "proponent/display/templates/report.html" in files and files <= held, files - held
