"""Where a service is and how it is spoken to: address, TLS, token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from proponent.errors import SpecError

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Retrying is done by this client, which knows the deadline of the whole call and what the server advised.
    ("grpc.enable_retries", 0),
]


@dataclass(frozen=True)
class Tls:
    """Encryption of the connection.

    Attributes:
        authorities: PEM file of the authorities that may have signed the server's certificate; None for those that
            gRPC ships.
        certificate: PEM file of this client's own certificate, where the server asks for one; needs ``key``.
        key: PEM file of its private key.

    >>> Tls(certificate="client.pem")
    Traceback (most recent call last):
    proponent.errors.SpecError: TLS needs both a certificate and a key, got one of them
    """

    authorities: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise SpecError("TLS needs both a certificate and a key, got one of them", field="certificate")

    def credentials(self) -> grpc.ChannelCredentials:
        """The files' contents.

        Raises:
            SpecError: A file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.authorities, "authorities"),
            private_key=_read(self.key, "key"),
            certificate_chain=_read(self.certificate, "certificate"),
        )


@dataclass(frozen=True)
class Connection:
    """One service.

    Attributes:
        address: ``host:port`` of the gRPC endpoint.
        token: Bearer token; never shown.
        tls: None speaks in the clear.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise SpecError("the token holds what is not printable ASCII (a line break?)", field="token")

    def channel(self) -> grpc.Channel:
        """A blocking channel; it connects at its first call."""
        if self.tls is None:
            return grpc.insecure_channel(self.address, options=OPTIONS)
        return grpc.secure_channel(self.address, self.tls.credentials(), options=OPTIONS)

    def aio_channel(self) -> grpc.aio.Channel:
        """A channel of the running event loop."""
        if self.tls is None:
            return grpc.aio.insecure_channel(self.address, options=OPTIONS)
        return grpc.aio.secure_channel(self.address, self.tls.credentials(), options=OPTIONS)

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """What every call carries."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)


def _read(path: Path | str | None, name: str) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise SpecError(f"TLS file {name!r} cannot be read: {path}: {error.strerror}", field=name) from None
