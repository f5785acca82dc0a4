"""Finds the caller that a bearer token belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from proponent.errors import UnauthenticatedError
from proponent.gateway.auth.caller import Allowance, Caller, Scope, require_scope
from proponent.gateway.auth.token_file import read_tokens, token_digest
from proponent.gateway.file_watch import WatchedFiles
from proponent.gateway.settings import Settings
from proponent.results import DisclosureLevel

if TYPE_CHECKING:
    from proponent.gateway.auth.json_web_tokens import TokenVerifier

ANYBODY = Caller("anybody", frozenset(Scope), DisclosureLevel.FULL)


class Authenticator:
    """Knows tokens by their SHA-256, so that no comparison depends on a secret's characters.

    Args:
        default: Who calls where no token is asked for; its level and allowance hold for tokens that name none.
        tokens_file: Lines of tokens.
        verifier: Accepts JSON Web Tokens. With neither of the two no token is asked for.
    """

    def __init__(
        self, default: Caller = ANYBODY, tokens_file: Path | None = None, verifier: TokenVerifier | None = None
    ) -> None:
        self._default = default
        self._tokens_file = tokens_file
        self._verifier = verifier
        self._is_open = tokens_file is None and verifier is None
        self._callers: Mapping[bytes, Caller] = {}
        self._load_tokens()

    def files(self) -> Sequence[WatchedFiles]:
        """The files that count as soon as they change, each for itself: a broken one holds up no other."""
        tokens, verifier = self._tokens_file, self._verifier
        found = [] if tokens is None else [WatchedFiles("tokens", [tokens], self._load_tokens)]
        return found if verifier is None else [*found, WatchedFiles("token keys", [verifier.path], verifier.load)]

    def _load_tokens(self) -> None:
        if self._tokens_file is not None:
            self._callers = read_tokens(self._tokens_file, self._default)

    def require(self, authorization: str, scope: Scope | None) -> Caller:
        """Who shows the value of an ``authorization`` header; scope None asks for any known token.

        Raises:
            UnauthenticatedError: No bearer token, an unknown one, or one that is not accepted.
            PermissionDeniedError: The token lacks the scope.
        """
        if self._is_open:
            return self._default
        caller = self._caller_of(_bearer(authorization))
        if scope is not None:
            require_scope(caller.scopes, scope)
        return caller

    def confirm(self, caller: Caller) -> Caller:
        """A caller as it is known by now, in a call that lasts; raises UnauthenticatedError where it is no more."""
        return caller if self._is_open else self._known(caller.credential) or self._refuse()

    def _caller_of(self, token: str) -> Caller:
        digest = token_digest(token)
        known = self._known(digest)
        if known is not None:
            return known
        if self._verifier is not None and token.count(".") == 2:
            return self._verifier.verify(token, digest)
        self._refuse()

    def _known(self, digest: bytes) -> Caller | None:
        caller = self._callers.get(digest)
        return self._verifier.known(digest) if caller is None and self._verifier is not None else caller

    def _refuse(self) -> NoReturn:
        raise UnauthenticatedError("bearer token is missing or unknown", field="authorization")


def authenticator_of(settings: Settings) -> Authenticator:
    """What an operator's settings ask for."""
    allowance = Allowance(settings.caller_rate, settings.caller_explanations, settings.caller_examples)
    anybody = replace(ANYBODY, level=settings.disclosure_level, allowance=allowance)
    return Authenticator(anybody, settings.tokens_file, _verifier_of(settings, anybody))


def _verifier_of(settings: Settings, default: Caller) -> TokenVerifier | None:
    if settings.jwt_keys is None:
        return None
    from proponent.gateway.auth.json_web_tokens import TokenVerifier

    return TokenVerifier(settings.jwt_keys, settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway, default)


def _bearer(authorization: str) -> str:
    kind, _, token = authorization.partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""
