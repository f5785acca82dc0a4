"""TLS of both transports: the files that the settings name, read once and blamed one by one."""

from __future__ import annotations

import ssl
from pathlib import Path

from proponent.errors import SpecError
from proponent.gateway.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What a listening transport needs; None where the settings name no certificate.

    Raises:
        SpecError: A file cannot be read or is not what it should be; names the file and the setting.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, "tls_certificate", "a PEM certificate chain")
    _load_key(context, certificate, key)
    if settings.tls_client_ca is not None:
        _authorities(context, settings.tls_client_ca, "tls_client_ca", "PEM certificates of authorities")
        context.verify_mode = ssl.CERT_REQUIRED
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


def _bad(path: Path, field: str, expected: str, error: Exception) -> SpecError:
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else error
    return SpecError(f"TLS file {path} cannot be used: {expected} ({reason})", field=field)
