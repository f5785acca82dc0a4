"""Both transports over TLS, with tokens and client certificates: who may speak, and what others hear."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from gateway_fakes import Service
from proponent.errors import SpecError
from proponent.gateway.auth import Authenticator
from proponent.gateway.file_watch import WatchedFiles
from proponent.gateway.grpc.server import GrpcServer
from proponent.gateway.http.app import create_app
from proponent.gateway.http.listener import http_server, listen
from proponent.gateway.served_model import Readiness
from proponent.gateway.settings import Settings
from proponent.gateway.tls import Tls, tls_of
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub
from tokens import write_tokens

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl command to make certificates with")
REQUEST = pb.PredictRequest(model="toy", encoded_image=b"png")
PREDICT = "/v1/models/toy:predict"
GOOD, SMALL = "Bearer correct-horse", "Bearer battery-staple"
_NEW = ("-newkey", "rsa:2048", "-nodes", "-sha256")
Ask = Callable[["Transports"], Awaitable[None]]


@dataclass(frozen=True)
class Certificates:
    """A private authority, and what it signed for a server and for a client; all PEM files."""

    directory: Path

    def path(self, name: str) -> Path:
        return self.directory / name

    def security(self, *, client_ca: bool, tokens: bool) -> dict[str, Any]:
        return dict(
            tokens_file=self.path("tokens") if tokens else None,
            tls_certificate=self.path("server.pem"),
            tls_key=self.path("server.key"),
            tls_client_ca=self.path("ca.pem") if client_ca else None,
        )

    def context(self, *, client: bool = False, trusted: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.path("ca.pem" if trusted else "client.pem"))
        if client:
            context.load_cert_chain(self.path("client.pem"), self.path("client.key"))
        return context

    def credentials(self, *, client: bool = False) -> grpc.ChannelCredentials:
        pair = [self.path(name).read_bytes() for name in ("client.key", "client.pem")] if client else [None, None]
        return grpc.ssl_channel_credentials(self.path("ca.pem").read_bytes(), *pair)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made_certificates(tmp_path_factory.mktemp("tls"))


def made_certificates(directory: Path) -> Certificates:
    made = Certificates(directory)
    _openssl(made, "req", "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem", *_NEW)
    for name in ("server", "client"):
        _openssl(made, "req", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr", *_NEW)
        made.path("names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        _openssl(made, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    write_tokens(made.path("tokens"), {"correct-horse": "predict,explain", "battery-staple": "explain"})
    return made


def _openssl(made: Certificates, *arguments: str) -> None:
    assert OPENSSL is not None
    done = subprocess.run([OPENSSL, *arguments], cwd=made.directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Transports:
    """Both listening transports of one service."""

    certificates: Certificates
    grpc_address: str
    http_address: str
    tls: Tls

    async def http(
        self, context: ssl.SSLContext | None = None, token: str = "", scheme: str = "https"
    ) -> httpx.Response:
        headers = {"content-type": "image/png", **({"authorization": token} if token else {})}
        verify = context or self.certificates.context()
        async with httpx.AsyncClient(verify=verify, trust_env=False, timeout=20) as client:
            return await client.post(f"{scheme}://{self.http_address}{PREDICT}", content=b"png", headers=headers)

    async def rpc(self, *, client: bool = False, token: str = "", secure: bool = True) -> pb.PredictResponse:
        credentials = self.certificates.credentials(client=client)
        address = self.grpc_address
        channel = grpc.aio.secure_channel(address, credentials) if secure else grpc.aio.insecure_channel(address)
        async with channel:
            metadata = (("authorization", token),) if token else ()
            return await ExplanationServiceStub(channel).Predict(REQUEST, metadata=metadata, timeout=10)

    async def code(self, *, client: bool = False, token: str = "", secure: bool = True) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.rpc(client=client, token=token, secure=secure)
        return caught.value.code()


@asynccontextmanager
async def opened(directory: Path, certificates: Certificates, security: dict[str, Any]) -> AsyncIterator[Transports]:
    service = Service(
        directory,
        Authenticator(tokens_file=security["tokens_file"]),
        **security,
        grpc_address="127.0.0.1:0",
        http_address="127.0.0.1:0",
    )
    app = create_app(service.calls, service.metrics, Readiness(service.models), service.settings)
    tls = tls_of(service.settings)
    assert tls is not None
    rpc = GrpcServer(service.calls, Readiness(service.models), service.metrics, service.settings, tls)
    http = http_server(app, service.settings, tls)
    with listen(service.settings.http_address, service.settings.max_connections) as listener:
        await rpc.start()
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        try:
            yield Transports(certificates, f"127.0.0.1:{rpc.port}", f"127.0.0.1:{listener.getsockname()[1]}", tls)
        finally:
            http.should_exit = True
            await asyncio.gather(serving, rpc.stop(1))
            service.close()


def run(directory: Path, certificates: Certificates, security: dict[str, Any], ask: Ask) -> None:
    async def inside() -> None:
        async with opened(directory, certificates, security) as transports:
            await ask(transports)

    asyncio.run(inside())


def test_speaks_tls_and_nothing_else(certificates: Certificates, tmp_path: Path) -> None:
    async def ask(transports: Transports) -> None:
        assert (await transports.http()).json()["predictions"][0]["class_id"] == 1
        assert (await transports.rpc()).prediction.class_id == 1
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await transports.http(certificates.context(trusted=False))
        with pytest.raises(httpx.TransportError):
            await transports.http(scheme="http")
        assert await transports.code(secure=False) is grpc.StatusCode.UNAVAILABLE

    run(tmp_path, certificates, certificates.security(client_ca=False, tokens=False), ask)


def test_tokens_open_what_their_scopes_say(certificates: Certificates, tmp_path: Path) -> None:
    async def ask(transports: Transports) -> None:
        assert (await transports.http(token=GOOD)).status_code == 200
        assert (await transports.rpc(token=GOOD)).prediction.class_id == 1
        for token, status, code in (
            ("", 401, grpc.StatusCode.UNAUTHENTICATED),
            ("Bearer guess", 401, grpc.StatusCode.UNAUTHENTICATED),
            (SMALL, 403, grpc.StatusCode.PERMISSION_DENIED),
        ):
            reply = await transports.http(token=token)
            assert (reply.status_code, reply.headers.get("www-authenticate") is not None) == (status, status == 401)
            assert await transports.code(token=token) is code

    run(tmp_path, certificates, certificates.security(client_ca=False, tokens=True), ask)


def test_clients_must_show_a_certificate_where_an_authority_is_named(
    certificates: Certificates, tmp_path: Path
) -> None:
    async def ask(transports: Transports) -> None:
        assert (await transports.http(certificates.context(client=True))).status_code == 200
        assert (await transports.rpc(client=True)).prediction.class_id == 1
        with pytest.raises(httpx.TransportError):
            await transports.http()
        assert await transports.code() is grpc.StatusCode.UNAVAILABLE

    run(tmp_path, certificates, certificates.security(client_ca=True, tokens=False), ask)


def test_a_file_of_tls_that_cannot_be_used_is_named(certificates: Certificates, tmp_path: Path) -> None:
    made = certificates
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "half").write_bytes(made.path("server.pem").read_bytes()[:300])
    _openssl(made, "rsa", "-aes128", "-passout", "pass:secret", "-in", "server.key", "-out", "locked.key")
    pair = {"tls_certificate": made.path("server.pem"), "tls_key": made.path("server.key")}
    bad = [{**pair, "tls_certificate": tmp_path / name} for name in ("text", "empty", "half")]
    bad += [
        {**pair, "tls_key": path} for path in (tmp_path / "text", made.path("client.key"), made.path("locked.key"))
    ]
    bad += [{**pair, "tls_client_ca": tmp_path / name} for name in ("text", "empty")]
    for files in bad:
        (field,) = (name for name, path in files.items() if pair.get(name) != path)
        settings = Settings(store=tmp_path, grpc_address="127.0.0.1:0", **files)
        with pytest.raises(SpecError, match=f"TLS file {files[field]} ") as caught:
            tls_of(settings)
        assert caught.value.field == field


@pytest.fixture
def replaced(certificates: Certificates, tmp_path: Path) -> tuple[Certificates, Certificates]:
    """Files that may be overwritten, and those of another authority to do it with."""
    return Certificates(Path(shutil.copytree(certificates.directory, tmp_path / "now"))), made_certificates(
        Path(tempfile.mkdtemp(dir=tmp_path))
    )


def overwrite(here: Certificates, other: Certificates, *names: str) -> None:
    for name in names:
        shutil.copyfile(other.path(name), here.path(name))


def test_changed_certificates_count_for_new_connections_and_drop_none(
    replaced: tuple[Certificates, Certificates], tmp_path: Path
) -> None:
    here, other = replaced
    before = here.context()
    old = here.credentials()

    async def ask(transports: Transports) -> None:
        watched = WatchedFiles("TLS", transports.tls.paths, transports.tls.load)
        channel = grpc.aio.secure_channel(transports.grpc_address, old)
        async with channel, httpx.AsyncClient(verify=before, trust_env=False, timeout=20) as client:
            stub = ExplanationServiceStub(channel)  # type: ignore[no-untyped-call]
            url = f"https://{transports.http_address}/healthz"
            assert (await client.get(url)).status_code == 200 and (await stub.Predict(REQUEST)).prediction
            overwrite(here, other, "server.pem")
            watched.look()  # the key is not there yet: what was read before goes on
            assert (await transports.http(before)).status_code == 200
            overwrite(here, other, "server.key", "ca.pem")
            watched.look()
            assert (await client.get(url)).status_code == 200 and (await stub.Predict(REQUEST)).prediction
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await transports.http(before)
            assert (await transports.http()).status_code == 200
            assert (await transports.rpc()).prediction.class_id == 1
            here.path("server.pem").write_text("broken")
            watched.look()
            assert (await transports.http()).status_code == 200
            assert (await transports.rpc()).prediction.class_id == 1

    run(tmp_path, here, here.security(client_ca=False, tokens=False), ask)


def test_a_file_that_goes_while_it_is_read_ends_no_watching(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"

    def load() -> None:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    watched = WatchedFiles("TLS", [path], load)
    path.write_text("changed")
    watched.look()


def test_a_changed_authority_of_clients_shuts_out_those_of_the_one_before(
    replaced: tuple[Certificates, Certificates], tmp_path: Path
) -> None:
    here, other = replaced
    client, own = here.context(client=True), here.credentials(client=True)

    async def ask(transports: Transports) -> None:
        address = transports.grpc_address
        assert (await transports.http(client)).status_code == 200
        overwrite(here, other, "ca.pem")
        transports.tls.load()
        with pytest.raises(httpx.TransportError):
            await transports.http(client)
        async with grpc.aio.secure_channel(address, own) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ExplanationServiceStub(channel).Predict(REQUEST, timeout=10)  # type: ignore[no-untyped-call]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        overwrite(here, other, "client.pem", "client.key")
        trusting = ssl.create_default_context(cafile=str(tmp_path / "server-ca.pem"))
        trusting.load_cert_chain(here.path("client.pem"), here.path("client.key"))
        assert (await transports.http(trusting)).status_code == 200

    shutil.copyfile(here.path("ca.pem"), tmp_path / "server-ca.pem")
    run(tmp_path, here, here.security(client_ca=True, tokens=False), ask)


def test_clients_with_certificates_get_no_tickets(certificates: Certificates, tmp_path: Path) -> None:
    """A resumed session shows no certificate, and would outlive the authority that is taken away."""

    async def ask(transports: Transports) -> None:
        host, port = transports.http_address.split(":")
        session = await asyncio.to_thread(session_of, certificates, host, int(port))
        assert not session.has_ticket

    run(tmp_path, certificates, certificates.security(client_ca=True, tokens=False), ask)


def session_of(made: Certificates, host: str, port: int) -> ssl.SSLSession:
    plain = socket.create_connection((host, port), timeout=10)
    with made.context(client=True).wrap_socket(plain, server_hostname=host) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while connection.recv(4096):
            pass
        assert connection.session is not None
        return connection.session


@pytest.mark.parametrize(
    ("kind", "taken"),
    [(("ec", "-pkeyopt", "ec_paramgen_curve:P-384"), True), (("ed25519",), False)],
    ids=["P-384", "Ed25519"],
)
def test_a_key_works_for_both_transports_or_is_refused(
    replaced: tuple[Certificates, Certificates], tmp_path: Path, kind: tuple[str, ...], taken: bool
) -> None:
    here, _ = replaced
    _openssl(
        here, "req", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr", "-nodes", "-newkey", *kind
    )
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    _openssl(here, "x509", "-req", "-in", "server.csr", "-out", "server.pem", *signed)

    async def ask(transports: Transports) -> None:
        assert (await transports.http()).status_code == 200
        assert (await transports.rpc()).prediction.class_id == 1

    security = here.security(client_ca=False, tokens=False)
    if taken:
        run(tmp_path, here, security, ask)
    else:
        with pytest.raises(SpecError, match="a key that gRPC cannot use") as caught:
            run(tmp_path, here, security, ask)
        assert caught.value.field == "tls_certificate"
