"""Bearer tokens with scopes."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from pathlib import Path

from proponent.errors import PermissionDeniedError, SpecError, UnauthenticatedError


class Scope(enum.Enum):
    """What a token allows."""

    PREDICT = "predict"
    EXPLAIN = "explain"
    EXAMPLES = "examples"


class Authenticator:
    """Checks tokens by their SHA-256, so that no comparison depends on a secret's characters.

    Args:
        scopes: Scopes by SHA-256 of the token; None lets every caller do everything.
    """

    def __init__(self, scopes: Mapping[bytes, frozenset[Scope]] | None = None) -> None:
        self._scopes = scopes

    @classmethod
    def from_file(cls, path: Path | None) -> Authenticator:
        """Reads lines of ``TOKEN scope,scope``; blank lines and lines with ``#`` first are skipped.

        Raises:
            SpecError: A line has another form or names an unknown scope; it is given by number, not by text.
        """
        if path is None:
            return cls()
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        return cls(dict(_entry(path, n, line) for n, line in lines if line.strip() and line.strip()[0] != "#"))

    def require(self, authorization: str, scope: Scope | None) -> frozenset[Scope]:
        """What the value of an ``authorization`` header allows; scope None asks for any known token.

        Raises:
            UnauthenticatedError: No bearer token, or an unknown one.
            PermissionDeniedError: The token lacks the scope.
        """
        if self._scopes is None:
            return frozenset(Scope)
        granted = self._scopes.get(_digest(_bearer(authorization)))
        if granted is None:
            raise UnauthenticatedError("bearer token is missing or unknown", field="authorization")
        if scope is not None:
            require_scope(granted, scope)
        return granted


def require_scope(granted: frozenset[Scope], scope: Scope) -> None:
    """Raises PermissionDeniedError where a scope is not among those granted."""
    if scope not in granted:
        raise PermissionDeniedError(f"token lacks the scope {scope.value!r}", field="authorization")


def _bearer(authorization: str) -> str:
    kind, _, token = authorization.partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _entry(path: Path, number: int, line: str) -> tuple[bytes, frozenset[Scope]]:
    token, *rest = line.split()
    names = {scope.value: scope for scope in Scope}
    asked = rest[0].split(",") if len(rest) == 1 else []
    if not asked or any(name not in names for name in asked):
        raise SpecError(
            f"{path}: line {number}: expected TOKEN and scopes of {', '.join(names)}, joined by commas",
            field="tokens_file",
        )
    return _digest(token), frozenset(names[name] for name in asked)
