"""Work stops when nobody waits for it any more: long computations pass checkpoints, which raise then.

A token says whether somebody waits. The token of what is being computed is ambient, so that a loop deep in the
mathematics needs no parameter for it; where none is set, as in a rebuild, a checkpoint does nothing.

>>> with scope(until(time.monotonic_ns() + 10**9)):
...     for block in blocks:
...         checkpoint()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from proponent.errors import DeadlineError

Token = Callable[[], None]
"""Raises DeadlineError once nobody waits."""

_token: ContextVar[Token | None] = ContextVar("token", default=None)


def checkpoint() -> None:
    """Raises DeadlineError when nobody waits for what is being computed; costs a microsecond or two."""
    token = _token.get()
    if token is not None:
        token()


@contextmanager
def scope(token: Token) -> Iterator[None]:
    """A block that stands under a token; the one outside holds again behind it."""
    before = _token.set(token)
    try:
        yield
    finally:
        _token.reset(before)


def always() -> None:
    """The token of what must be finished."""


def until(deadline_ns: int, wanted: Callable[[], bool] = lambda: True) -> Token:
    """A token that holds until a time of ``time.monotonic_ns``, and as long as the result is wanted."""

    def token() -> None:
        if time.monotonic_ns() >= deadline_ns:
            raise DeadlineError("the deadline passed before the answer was ready")
        if not wanted():
            raise DeadlineError("the caller left before the answer was ready", reason="CALL_ABANDONED")

    return token


def any_of(tokens: Sequence[Token]) -> Token:
    """A token that holds as long as one of several does: shared work is stopped when nobody waits for any of it."""

    def token() -> None:
        last: DeadlineError | None = None
        for each in tokens:
            try:
                return each()
            except DeadlineError as error:
                last = error
        if last is not None:
            raise last

    return token
