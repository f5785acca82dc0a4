"""A line for each caller, served in turn: who sends much waits behind himself and not before others.

One caller alone has the whole queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field


@dataclass(eq=False)
class Ticket:
    """One who waits.

    Attributes:
        caller: In whose line.
        part: Whether this is a part of a larger call, which pushes back instead of being refused.
        admitted: Set when it is its turn; an error where it is refused after all.
    """

    caller: str
    part: bool
    admitted: asyncio.Future[None]


@dataclass
class _Line:
    """The tickets of one caller; calls and parts are taken in turn as well."""

    calls: deque[Ticket] = field(default_factory=deque)
    parts: deque[Ticket] = field(default_factory=deque)
    _part_is_next: bool = False

    def of(self, ticket: Ticket) -> deque[Ticket]:
        return self.parts if ticket.part else self.calls

    def take(self, *, parts: bool) -> Ticket | None:
        if parts and self.parts and (self._part_is_next or not self.calls):
            self._part_is_next = False
            return self.parts.popleft()
        self._part_is_next = True
        return self.calls.popleft() if self.calls else None


class FairQueue:
    """Tickets of those who wait.

    Attributes:
        calls: How many of them are no parts of larger calls.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self.calls = 0

    def __len__(self) -> int:
        return sum(len(line.calls) + len(line.parts) for line in self._lines.values())

    def add(self, ticket: Ticket) -> None:
        """Puts a ticket at the end of its caller's line."""
        self._lines.setdefault(ticket.caller, _Line()).of(ticket).append(ticket)
        self.calls += not ticket.part

    def remove(self, ticket: Ticket) -> None:
        """Takes out one who does not wait any longer, if it is there still."""
        line = self._lines.get(ticket.caller)
        if line is not None and ticket in line.of(ticket):
            line.of(ticket).remove(ticket)
            self._left(ticket, line)

    def take(self, *, parts: bool) -> Ticket | None:
        """The next ticket in turn; None where nobody waits who may be taken.

        Args:
            parts: Whether parts of larger calls may.
        """
        for caller, line in self._lines.items():
            ticket = line.take(parts=parts)
            if ticket is not None:
                self._lines[caller] = self._lines.pop(caller)  # to the end of the round
                self._left(ticket, line)
                return ticket
        return None

    def last_of_longest(self, caller: str) -> Ticket | None:
        """The newest call of whoever has more calls waiting than this caller would have; None where nobody has."""
        longest = max(self._lines.values(), key=lambda line: len(line.calls), default=_Line())
        own = self._lines.get(caller, _Line())
        return longest.calls[-1] if len(longest.calls) > len(own.calls) + 1 else None

    def _left(self, ticket: Ticket, line: _Line) -> None:
        self.calls -= not ticket.part
        if not line.calls and not line.parts:
            del self._lines[ticket.caller]
