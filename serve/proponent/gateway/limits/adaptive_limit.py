"""How many requests a lane's workers are given at the same time: as many as they need to be busy, and few more.

What a worker has not begun can neither be put behind another caller's request nor be refused any more, so the line
belongs in the gateway. The worker says when it took a request up; from that its wait is known, apart from the time
that the work itself took. The limit grows while waits are short and it is used up, and shrinks by a tenth when they
are not: additive increase, multiplicative decrease, as in TCP (Chiu and Jain, 1989).
"""

from __future__ import annotations

_STEP = 1.0
_CUT = 0.9
_MEMORY = 0.1
"""Weight of the newest request in the mean time of one."""


class AdaptiveLimit:
    """A limit that follows what the workers achieve.

    Args:
        start: Its first value.
        most: Largest value.
        target_s: Wait at the workers that is short. A wait that is no longer than the work itself counts as short
            too: whoever comes while a batch is computed waits for its end, however few there are.

    Attributes:
        seconds: Mean time of a request at the workers, its wait included; 0 before the first.
    """

    def __init__(self, start: int, most: int, target_s: float) -> None:
        self._most = most
        self._target_s = target_s
        self._value = float(min(start, most))
        self._cut_at = 0.0
        self.seconds = 0.0

    @property
    def value(self) -> int:
        """Requests that may be at the workers now; at least 1."""
        return int(self._value)

    def observe(self, sent_at: float, begun_at: float, ended_at: float, *, used_up: bool) -> None:
        """Learns from a request that the workers are done with.

        Args:
            sent_at: When it was sent to them, in seconds.
            begun_at: When one of them began with it, by the same clock.
            ended_at: When its reply came.
            used_up: Whether as many requests as the limit allows were at the workers.
        """
        self.seconds += (ended_at - sent_at - self.seconds) * (_MEMORY if self.seconds else 1.0)
        if begun_at - sent_at > max(self._target_s, ended_at - begun_at):
            self._cut(sent_at, ended_at)
        elif used_up:
            self._value = min(float(self._most), self._value + _STEP / self._value)

    def _cut(self, sent_at: float, now: float) -> None:
        """Once for all the requests that were sent under the same limit."""
        if sent_at >= self._cut_at:
            self._value, self._cut_at = max(1.0, _CUT * self._value), now
