"""Signals as events: the first asks for an orderly end, a second one for a quick end.

SIGTERM is how a supervisor of processes ends one behind a balancer, which has to notice first; SIGINT (Ctrl-C) and
SIGHUP (a closed terminal) come from a person, who need not wait for that.
"""

from __future__ import annotations

import asyncio
import signal


class StopSignals:
    """Listens from its creation on, inside a running event loop; signals that the parent had ignored stay ignored.

    Attributes:
        stop: Set by the first signal.
        force_stop: Set by a second one.
        drains: Whether the first was SIGTERM.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.force_stop = asyncio.Event()
        self.drains = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._received, number)

    def _received(self, number: int) -> None:
        if self.stop.is_set():
            self.force_stop.set()
        else:
            self.drains = number == signal.SIGTERM
            self.stop.set()
