"""Nobody serves strangers by mistake: other addresses than loopback need TLS and a way to know callers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from proponent.errors import SpecError
from proponent.gateway.effective_settings import load_settings
from proponent.gateway.settings import Settings
from proponent.results import DisclosureLevel
from tokens import write_tokens

ROOT = Path(__file__).parent.parent
REACHABLE = [
    "0.0.0.0:0",
    "[::]:0",
    "10.0.0.1:0",
    "example.org:0",
    "localhost.example.org:0",
    "0:0",
    "[::ffff:0.0.0.0]:0",
]
LOOPBACK = ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0", "localhost:0"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    for name in ("cert", "key", "ca"):
        (tmp_path / name).write_text("")
    return {
        "tokens": {"tokens_file": write_tokens(tmp_path / "tokens", {"a": "predict"})},
        "tls": {"tls_certificate": tmp_path / "cert", "tls_key": tmp_path / "key"},
        "authority": {"tls_client_ca": tmp_path / "ca"},
    }


@pytest.mark.parametrize("field", ["grpc_address", "http_address"])
@pytest.mark.parametrize("address", REACHABLE)
def test_an_address_that_others_reach_needs_tls_and_known_callers(
    field: str, address: str, files: dict[str, Any]
) -> None:
    for given in ({}, files["tokens"], files["tls"]):
        with pytest.raises(SpecError, match=rf"{field} .*{re.escape(address)}.*TLS.*insecure") as caught:
            Settings(**{field: address}, **given)
        assert caught.value.field == field
        assert Settings(**{field: address}, **given, insecure=True)
    assert Settings(**{field: address}, **files["tls"], **files["tokens"])
    assert Settings(**{field: address}, **files["tls"], **files["authority"])


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_needs_nothing(address: str) -> None:
    assert Settings(grpc_address=address, http_address=address)


def test_numbers_are_told_to_everybody_on_loopback_alone(files: dict[str, Any]) -> None:
    assert Settings().disclosure_level is DisclosureLevel.FULL
    assert Settings(**files["tokens"]).disclosure_level is DisclosureLevel.RANKS
    for field in ("grpc_address", "http_address"):
        assert Settings(**{field: "0.0.0.0:0"}, insecure=True).disclosure_level is DisclosureLevel.RANKS
    for level in DisclosureLevel:
        chosen = Settings(grpc_address="0.0.0.0:0", insecure=True, disclosure=level.name.lower())
        assert chosen.disclosure_level is level


def test_the_image_serves_nobody_as_it_is() -> None:
    """The CMD listens everywhere: who runs it says how callers are known, or that they are not."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    [arguments] = [line.removeprefix("CMD ") for line in lines if line.startswith("CMD ")]
    given = {name.replace("-", "_"): value for name, value in re.findall(r'"--([\w-]+)", "([^"]+)"', arguments)}
    with pytest.raises(SpecError, match="insecure"):
        load_settings(given)
    assert load_settings({**given, "insecure": True}).settings.insecure
