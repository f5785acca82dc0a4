"""Finds the caller that a bearer token belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from proponent.errors import UnauthenticatedError
from proponent.gateway.auth.caller import Caller, Scope, require_scope
from proponent.gateway.auth.token_file import read_tokens, token_digest
from proponent.gateway.settings import Settings
from proponent.results import DisclosureLevel

ANYBODY = Caller("anybody", frozenset(Scope), DisclosureLevel.FULL)


class Authenticator:
    """Knows tokens by their SHA-256, so that no comparison depends on a secret's characters.

    Args:
        default: Who calls where no token is asked for; its level and allowance hold for tokens that name none.
        tokens_file: Lines of tokens; None asks for none.
    """

    def __init__(self, default: Caller = ANYBODY, tokens_file: Path | None = None) -> None:
        self._default = default
        self._tokens_file = tokens_file
        self._callers: Mapping[bytes, Caller] | None = None
        self.load()

    @property
    def paths(self) -> Sequence[Path]:
        """The files that it reads."""
        return [] if self._tokens_file is None else [self._tokens_file]

    def load(self) -> None:
        """Reads the file again; what was known stays known where it cannot be used.

        Raises:
            SpecError: Names the file and the line.
        """
        if self._tokens_file is not None:
            self._callers = read_tokens(self._tokens_file, self._default)

    def require(self, authorization: str, scope: Scope | None) -> Caller:
        """Who shows the value of an ``authorization`` header; scope None asks for any known token.

        Raises:
            UnauthenticatedError: No bearer token, or an unknown one.
            PermissionDeniedError: The token lacks the scope.
        """
        if self._callers is None:
            return self._default
        caller = self._known(token_digest(_bearer(authorization)))
        if scope is not None:
            require_scope(caller.scopes, scope)
        return caller

    def confirm(self, caller: Caller) -> Caller:
        """A caller as it is known by now, in a call that lasts; raises UnauthenticatedError where it is no more."""
        return caller if self._callers is None else self._known(caller.credential)

    def _known(self, credential: bytes) -> Caller:
        caller = self._callers.get(credential) if self._callers else None
        if caller is None:
            raise UnauthenticatedError("bearer token is missing or unknown", field="authorization")
        return caller


def authenticator_of(settings: Settings) -> Authenticator:
    """What an operator's settings ask for."""
    return Authenticator(replace(ANYBODY, level=settings.disclosure_level), settings.tokens_file)


def _bearer(authorization: str) -> str:
    kind, _, token = authorization.partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""
