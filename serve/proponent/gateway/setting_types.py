"""The types of settings: what a value may be, how text is read as one, and in what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, FilePath
from pydantic_settings import NoDecode


@dataclass(frozen=True)
class Unit:
    """In what the values of a type are given."""

    name: str


def split_address(address: str) -> tuple[str, int]:
    """Splits ``host:port`` (an IPv6 host in brackets).

    Raises:
        ValueError: It does not have this form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected host:port")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` is of this machine alone."""
    host, _ = split_address(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _checked_address(address: str) -> str:
    split_address(address)
    return address


def _checked_cluster(address: str) -> str:
    if address == "auto":
        return address
    if "://" in address:
        raise ValueError("expected host:port or auto, as Ray's client protocol is not spoken")
    try:
        return _checked_address(address)
    except ValueError as error:
        raise ValueError(f"{error} or auto") from error


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("expected http://HOST:PORT or https://HOST:PORT")
    return url


def _separated(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _grouped_by_model(value: Any) -> Any:
    """What lines like ``digits.workers=2`` say, as a mapping of mappings; one is left as it is."""
    if isinstance(value, Mapping):
        return value
    found: dict[str, dict[str, str]] = {}
    for line in _separated(value):
        path, equals, text = str(line).partition("=")
        model, _, key = path.rpartition(".")
        if not (equals and model and key):
            raise ValueError("expected MODEL.KEY=VALUE, e.g. digits.workers=2")
        found.setdefault(model, {})[key] = text
    return found


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


_NUMBER = BeforeValidator(_number)
Count = Annotated[int, Field(ge=1, le=1_000_000), _NUMBER, Unit("integer")]
Slots = Annotated[int, Field(ge=1, le=10_000), _NUMBER, Unit("integer")]
Budget = Annotated[int, Field(ge=0, le=1_000_000_000), _NUMBER, Unit("integer")]
Rate = Annotated[float, Field(ge=0, le=1_000_000), _NUMBER, Unit("calls a second")]
Processes = Annotated[int, Field(ge=1, le=1024), _NUMBER, Unit("integer")]
Waiting = Annotated[int, Field(ge=0, le=100_000), _NUMBER, Unit("integer")]
ProcessesOrNone = Annotated[int, Field(ge=0, le=1024), _NUMBER, Unit("integer")]
Niceness = Annotated[int, Field(ge=0, le=19), _NUMBER, Unit("integer")]
Cores = Annotated[int, Field(ge=0, le=1024), _NUMBER, Unit("integer")]
Seconds = Annotated[float, Field(gt=0, le=86_400), _NUMBER, Unit("seconds")]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400), _NUMBER, Unit("seconds")]
WholeSeconds = Annotated[int, Field(ge=1, le=86_400), _NUMBER, Unit("whole seconds")]
Milliseconds = Annotated[int, Field(ge=0, le=1_000), _NUMBER, Unit("milliseconds")]
MessageSize = Annotated[ByteSize, Field(ge=1, le=1 << 30), _NUMBER, Unit("bytes")]
"""gRPC and TorchServe count the bytes of a message in 32 bits."""
Size = Annotated[ByteSize, Field(ge=1, le=1 << 40), _NUMBER, Unit("bytes")]
Address = Annotated[str, AfterValidator(_checked_address), Unit("host:port")]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated), Unit("name")]
ByModel = Annotated[dict[str, dict[str, Any]], NoDecode, BeforeValidator(_grouped_by_model), Unit("MODEL.KEY=VALUE")]
Window = Annotated[float, Field(gt=0, le=31_536_000), _NUMBER, Unit("seconds")]
Text = Annotated[str, Unit("text")]
Directory = Annotated[Path, Unit("path")]
OptionalSwitch = Annotated[bool | None, Unit("true or false")]
OptionalUrl = Annotated[Annotated[str, AfterValidator(_checked_url)] | None, Unit("URL")]
OptionalCluster = Annotated[Annotated[str, AfterValidator(_checked_cluster)] | None, Unit("host:port or auto")]
ShardsOrNone = Annotated[int, Field(ge=0, le=1024), _NUMBER, Unit("integer")]
Share = Annotated[float, Field(ge=0, le=1), _NUMBER, Unit("0 to 1")]
OptionalPath = Annotated[Path | None, Unit("path")]
OptionalFile = Annotated[FilePath | None, Unit("path")]
HostName = Annotated[Literal["torchserve", "processes"], Unit("torchserve or processes")]
OptionalLevel = Annotated[
    Literal["labels", "ranks", "rounded", "full"] | None, Unit("labels, ranks, rounded or full")
]
