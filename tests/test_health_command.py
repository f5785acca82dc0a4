"""The probe of containers: ready or not, by exit code, through TLS and client certificates too."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from listening import opened
from test_gateway_tls import OPENSSL, Certificates, made_certificates

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl command to make certificates with")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made_certificates(tmp_path_factory.mktemp("probed"))


async def health(*arguments: object) -> tuple[int, str]:
    line = [sys.executable, "-m", "proponent.cli", "health", *map(str, arguments)]
    done = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_health_is_asked_in_the_clear(tmp_path: Path) -> None:
    async def ask() -> None:
        async with opened(tmp_path) as listening:
            code, said = await health(listening.grpc_address)
            assert (code, said) == (8, "NOT_SERVING\n")
            await listening.rpc.set_serving(True, {"toy": True, "ill": False})
            assert await health(listening.grpc_address) == (0, "SERVING\n")
            name = "proponent.v1.ExplanationService"
            assert (await health(listening.grpc_address, "--service", f"{name}/toy"))[0] == 0
            assert (await health(listening.grpc_address, "--service", f"{name}/ill"))[0] == 8
            code, said = await health(listening.grpc_address, "--service", "nobody")
            assert code == 8 and "NOT_FOUND" in said
        code, said = await health(listening.grpc_address, "--timeout", "1")
        assert code == 8 and listening.grpc_address in said

    asyncio.run(ask())


@pytest.mark.parametrize("mutual", [False, True])
def test_health_is_asked_through_tls(tmp_path: Path, certificates: Certificates, mutual: bool) -> None:
    async def ask() -> None:
        async with opened(tmp_path, **certificates.security(client_ca=mutual, tokens=False)) as listening:
            await listening.rpc.set_serving(True, {})
            trusted = ("--tls-certificate", certificates.path("server.pem"))
            client = (
                "--client-certificate",
                certificates.path("client.pem"),
                "--client-key",
                certificates.path("client.key"),
            )
            assert (await health(listening.grpc_address, *trusted, *(client if mutual else ())))[0] == 0
            assert (await health(listening.grpc_address, "--timeout", "1"))[0] == 8
            stranger = ("--tls-certificate", certificates.path("client.pem"), "--timeout", "1")
            assert (await health(listening.grpc_address, *stranger))[0] == 8
            if mutual:
                assert (await health(listening.grpc_address, *trusted, "--timeout", "1"))[0] == 8

    asyncio.run(ask())
