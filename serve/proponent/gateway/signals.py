"""SIGINT and SIGTERM as events: the first asks for an orderly end, a second one for a quick end."""

from __future__ import annotations

import asyncio
import signal


class StopSignals:
    """Listens for both signals from its creation on, inside a running event loop."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()
