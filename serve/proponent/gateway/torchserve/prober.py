"""Asks a model's workers, again and again, whether they can do what calls need of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from proponent.errors import ProponentError, UnavailableError
from proponent.gateway.error_mapping import as_proponent_error

EVERY_S = 5.0
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 10.0


class Prober:
    """What the workers of one deployment last said of themselves; one question at a time is under way.

    A question that got no answer says nothing of the bundle: it is asked again, at first at once and then ever more
    rarely, until there is an answer.

    Args:
        model: Its name.
        ask: The worker's verdict, None where all is well; raises UnavailableError where there was none.
        clock: Monotonic seconds.

    Attributes:
        error: Why the workers cannot be sent calls; None when they can.
        certain: Whether that is what a worker said.
    """

    def __init__(
        self,
        model: str,
        ask: Callable[[], Awaitable[ProponentError | None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._ask = ask
        self._clock = clock
        self._asking: asyncio.Task[None] | None = None
        self.forget()

    def forget(self) -> None:
        """Of new workers nothing is known."""
        self.stop()
        self.error: ProponentError | None = UnavailableError(
            f"the worker of model {self._model!r} is asked for its state", reason="WORKER_STARTING"
        )
        self.certain = False
        self.hurry()

    def trust(self) -> None:
        """The workers are known to be well."""
        self.error, self.certain = None, True
        self._due = self._clock() + EVERY_S

    def hurry(self) -> None:
        """Asks at the next opportunity."""
        self._due, self._delay = self._clock(), _FIRST_DELAY_S

    def poke(self) -> None:
        """Asks if it is time to and no question is under way; to be called often."""
        if (self._asking is None or self._asking.done()) and self._clock() >= self._due:
            self._asking = asyncio.create_task(self._probe())

    def stop(self) -> None:
        """Drops the question under way."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _probe(self) -> None:
        try:
            self.error, self.certain = await self._ask(), True
            self._due, self._delay = self._clock() + EVERY_S, _FIRST_DELAY_S
        except Exception as error:
            self.error, self.certain = as_proponent_error(error), False
            self._due = self._clock() + self._delay
            self._delay = min(2 * self._delay, _LONGEST_DELAY_S)
