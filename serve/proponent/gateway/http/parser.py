"""What may be asked of the HTTP parser, which is written in Python and runs in the event loop.

A chunk of one byte costs it as much time as one of thousands: one connection that sent such chunks, 1 MB of them a
second, kept everybody else waiting for 2.3 s, and four for 11 s.
"""

from __future__ import annotations

import h11

# Framing that a body may have beside its content: short chunks, trailers.
_FREE_FRAMING = 4096
_CONTENT_PER_FRAMING = 32


class BoundedParser(h11.Connection):
    """h11's connection, which refuses bodies that are mostly framing.

    Data must be handed in by pieces of a few kilobytes, since h11 goes through a piece in one step.

    Attributes:
        refusal: What was refused; empty where nothing was.
    """

    def __init__(self, longest_head: int) -> None:
        super().__init__(h11.SERVER, longest_head)
        self._framing = 0
        self._content = 0
        self.refusal = ""

    def receive_data(self, data: bytes) -> None:
        """Takes a piece of what came in."""
        if self.their_state is h11.SEND_BODY:
            self._framing += len(data)
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event; raises h11.RemoteProtocolError for what is refused."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._framing, self._content = len(self.trailing_data[0]), 0
        elif isinstance(event, h11.Data):
            self._framing -= len(event.data)
            self._content += len(event.data)
        elif event is h11.NEED_DATA and self._framing > _FREE_FRAMING + self._content // _CONTENT_PER_FRAMING:
            self.refusal = "the chunks of the body are too short, or its trailers too long"
            raise h11.RemoteProtocolError(self.refusal)
        return event
