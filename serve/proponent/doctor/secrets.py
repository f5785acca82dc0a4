"""The files that hold secrets: can they be used, and who else can read them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from proponent.doctor.finding import Finding, failure, ok, warning
from proponent.errors import SpecError
from proponent.gateway.auth.authenticator import authenticator_of
from proponent.gateway.settings import Settings
from proponent.gateway.tls import tls_of

_SOON = timedelta(days=14)


def check_callers(settings: Settings) -> Iterator[Finding]:
    """Whether the files that say who may call can be used."""
    if settings.tokens_file is None and settings.jwt_keys is None:
        yield ok("callers", f"no tokens: {_callers_without(settings)}")
        return
    try:
        authenticator_of(settings)
    except SpecError as error:
        yield failure("callers", error.message, "make lines with: proponent token; keys are a JSON Web Key Set")
    else:
        yield ok("callers", "known by their tokens")
    if settings.tokens_file is not None:
        yield from _private(settings.tokens_file, "tokens file")


def _callers_without(settings: Settings) -> str:
    if settings.tls_client_ca is not None:
        return "who shows a certificate of the client authority may call"
    return "anybody may call" if settings.insecure else "for this machine alone"


def check_tls(settings: Settings) -> Iterator[Finding]:
    """Whether the certificate fits its key, and is valid now and for some time."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    try:
        tls_of(settings)
    except SpecError as error:
        yield failure(
            "tls", error.message, "name a PEM chain, its private key without a password, and PEM authorities"
        )
        return
    yield _validity(settings.tls_certificate)
    yield from _private(settings.tls_key, "tls key")


def _validity(path: Path) -> Finding:
    certificate, now = x509.load_pem_x509_certificates(path.read_bytes())[0], datetime.now(UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        return failure(
            "tls", f"the certificate is valid from {begins} on", "set the clock, or take another certificate"
        )
    if now >= ends:
        return failure(
            "tls", f"the certificate ended at {ends}", "renew it; a running gateway takes the new one by itself"
        )
    if ends - now < _SOON:
        return warning(
            "tls", f"the certificate ends at {ends}", "renew it; a running gateway takes the new one by itself"
        )
    return ok("tls", f"the certificate is valid until {ends}")


def _private(path: Path, check: str) -> Iterator[Finding]:
    """Whether all the world can read a file; a group may, as that of a pod."""
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield warning(check, f"every user of this machine can read or write {path}", f"chmod o-rw {path}")
