"""TLS of both transports: the files that the settings name, blamed one by one, and read again when they change.

Connections that are open stay as they are; what is read counts for those that begin afterwards.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from proponent.errors import SpecError
from proponent.gateway.settings import Settings

_WIDEST = 384
"""Bits of the largest elliptic curve that gRPC takes."""


class Tls:
    """What both transports need to listen; made by ``tls_of``.

    Raises:
        SpecError: A file cannot be read or is not what it should be; names the file and the setting.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self.load()

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""
        return [path for path in (self._certificate, self._key, self._client_ca) if path is not None]

    def load(self) -> None:
        """Reads the files; those read before stay in use where one cannot be used."""
        context = _server_context(self._certificate, self._key, self._client_ca)
        self._configuration = self._changed = self._configured()
        self._context = context

    def http_context(self) -> ssl.SSLContext:
        """A context that hands each new connection on to the newest one."""
        context = _server_context(self._certificate, self._key, self._client_ca)
        context.sni_callback = self._hand_on
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials that are asked for at every handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, self._take_change, require_client_authentication=self._client_ca is not None
        )

    def _hand_on(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._context

    def _take_change(self) -> grpc.ServerCertificateConfiguration | None:
        """None where nothing has changed since the last handshake: gRPC then keeps what it has made of it."""
        changed, self._changed = self._changed, None
        return changed

    def _configured(self) -> grpc.ServerCertificateConfiguration:
        authorities = None if self._client_ca is None else self._client_ca.read_bytes()
        return grpc.ssl_server_certificate_configuration(
            [(self._key.read_bytes(), self._certificate.read_bytes())], root_certificates=authorities
        )


def tls_of(settings: Settings) -> Tls | None:
    """The TLS that settings ask for; None where they name no certificate."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, "tls_certificate", "a PEM certificate chain")
    _load_key(context, certificate, key)
    _check_kind(certificate)
    if client_ca is not None:
        _authorities(context, client_ca, "tls_client_ca", "PEM certificates of authorities")
        context.verify_mode = ssl.CERT_REQUIRED
        # A ticket would let a client in again whose authority is no more.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _authorities(context: ssl.SSLContext, path: Path, field: str, expected: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise _bad(path, field, f"expected {expected}", error) from None


def _load_key(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def locked() -> str:
        raise SpecError(f"TLS file {key} is encrypted, expected a private key without a password", field="tls_key")

    try:
        context.load_cert_chain(certificate, key, password=locked)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SpecError(
                f"TLS file {key} is not the key of the certificate {certificate}", field="tls_key"
            ) from None
        raise _bad(key, "tls_key", "expected a PEM private key", error) from None
    except (OSError, ValueError) as error:
        raise _bad(key, "tls_key", "expected a PEM private key", error) from None


def _check_kind(certificate: Path) -> None:
    """Refuses keys with which HTTP would answer and gRPC would not: its library signs no handshake with them."""
    try:
        key = x509.load_pem_x509_certificates(certificate.read_bytes())[0].public_key()
    except (OSError, ValueError) as error:
        raise _bad(certificate, "tls_certificate", "expected a PEM certificate chain", error) from None
    if not (
        isinstance(key, rsa.RSAPublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and key.key_size <= _WIDEST)
    ):
        message = f"TLS file {certificate} has a key that gRPC cannot use, expected RSA, P-256 or P-384"
        raise SpecError(message, field="tls_certificate")


def _bad(path: Path, field: str, expected: str, error: Exception) -> SpecError:
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else error
    return SpecError(f"TLS file {path} cannot be used: {expected} ({reason})", field=field)
