"""A caller as the rest of the gateway knows it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from proponent.errors import PermissionDeniedError
from proponent.results import DisclosureLevel


class Scope(enum.Enum):
    """What a token allows."""

    PREDICT = "predict"
    EXPLAIN = "explain"
    EXAMPLES = "examples"
    ADMIN = "admin"


@dataclass(frozen=True)
class Allowance:
    """What one caller may use up; 0 means no bound.

    Attributes:
        rate: Calls a second.
        explanations: Explanations in a window of time.
        examples: Different training examples that are disclosed in a window of time.
    """

    rate: float = 0.0
    explanations: int = 0
    examples: int = 0


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        name: For logs; callers of one name share an allowance.
        scopes: What it may ask for.
        level: What it is told of training examples.
        allowance: What it may use up.
        credential: What it is found again by, while a call lasts; empty where none is asked for.
    """

    name: str
    scopes: frozenset[Scope]
    level: DisclosureLevel
    allowance: Allowance = Allowance()
    credential: bytes = b""


def require_scope(granted: frozenset[Scope], scope: Scope) -> None:
    """Raises PermissionDeniedError where a scope is not among those granted."""
    if scope not in granted:
        raise PermissionDeniedError(f"token lacks the scope {scope.value!r}", field="authorization")
