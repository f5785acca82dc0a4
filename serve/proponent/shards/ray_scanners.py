"""Scanners as actors on a Ray cluster: made where there is room, and made again where one is lost.

Actors belong to the process that made them and end with it, however it ends. Workers of one service find each other's
by name, so that they share one copy of the rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from proponent.bounds.cancellation import checkpoint
from proponent.errors import UnavailableError
from proponent.shards.remote_rows import Answers
from proponent.shards.scanner import Scanner
from proponent.shards.shard import Shard

TICK_S = 0.1
"""Between looks at whether callers still wait."""
HANG_S = 60.0
"""Without an answer to what was asked before a scanner counts as lost."""
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 8.0
"""Before a scanner that was lost is made again."""
ROW_OVERHEAD = 128
"""Bytes of a scanner for each row beside the row: its scales, and what a pass computes of it."""
UNREADABLE = "SHARD_UNREADABLE"
"""Reason of the error of rows that a scanner cannot read."""
_log = logging.getLogger("proponent.worker.shards")


class RayScanners:
    """`Scanners` of one bundle on the cluster that this process has joined.

    Args:
        shards: Of the bundle.
        cores: Of each scanner, which computes in as many threads.
    """

    def __init__(self, shards: Sequence[Shard], cores: int) -> None:
        make = ray.remote(num_cpus=cores, max_restarts=0, scheduling_strategy="SPREAD")(Scanner)
        self._seats = [
            Seat(make, cores, shard, f"{number} of {len(shards)}") for number, shard in enumerate(shards, 1)
        ]

    def wait(self, patience_s: float) -> None:
        """See `Scanners`."""
        end = time.monotonic() + patience_s
        while (error := self._missing()) is not None:
            if error.reason == UNREADABLE or time.monotonic() > end:
                raise error
            checkpoint()
            time.sleep(TICK_S)

    def check(self) -> None:
        """See `Scanners`; one that does not answer is made again."""
        for seat in self._seats:
            seat.look_after()
        self._require_all()

    def begin(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> Callable[[], Answers]:
        """See `Scanners`."""
        self._require_all()
        asked = {self._seats[number].ask(method, *values): number for number, values in arguments.items()}
        return partial(self._answers, asked)

    def _answers(self, asked: Mapping[Any, int]) -> Answers:
        found, waiting, end = {}, list(asked), time.monotonic() + HANG_S
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=TICK_S)
            for reference in done:
                found[asked[reference]] = self._seats[asked[reference]].answer(reference)
            if waiting:
                checkpoint()
                if time.monotonic() > end:
                    raise self._seats[asked[waiting[0]]].lost("it does not answer")
        return found

    def _missing(self) -> UnavailableError | None:
        """Why not all rows can be searched now."""
        states = [seat.is_ready() for seat in self._seats]
        return None if all(states) else self._seats[states.index(False)].error()

    def _require_all(self) -> None:
        error = self._missing()
        if error is not None:
            raise error


class Seat:
    """The place of a shard's scanner, which may be empty for a while.

    Args:
        make: The class of the actor.
        cores: That it takes.
        shard: That it loads.
        name: Of the shard, to be shown.
    """

    def __init__(self, make: Any, cores: int, shard: Shard, name: str) -> None:
        rows = shard.place.stop - shard.place.start
        self._memory = rows * (shard.row_bytes + ROW_OVERHEAD)
        self._make, self._cores, self._shard, self._name = make, cores, shard, name
        self._was_ready = False
        self._delay_s = FIRST_DELAY_S
        self._told = ""
        self._actor: Any = None
        self._loading: Any = None
        self._ping: tuple[Any, float] | None = None
        self._fill()

    def is_ready(self) -> bool:
        """Whether its rows are loaded; makes the scanner again once it is time to."""
        if self._actor is None:
            if time.monotonic() >= self._next_try:
                self._fill()
            return False
        if self._loading is not None and ray.wait([self._loading], timeout=0)[0]:
            self._arrived()
        return self._actor is not None and self._loading is None

    def error(self) -> UnavailableError:
        """Why it is not ready."""
        if self._told:
            return UnavailableError(
                f"shard {self._name} of the rows cannot be loaded: {self._told}", reason=UNREADABLE
            )
        need = f"a node with {self._cores} CPUs and {self._memory / 2**30:.1f} GiB"
        state = "was lost and is being loaded again" if self._was_ready else "is being loaded"
        return UnavailableError(
            f"shard {self._name} of the rows {state}, or waits for {need}",
            reason="SHARD_LOST" if self._was_ready else "SHARD_STARTING",
        )

    def ask(self, method: str, *arguments: Any) -> Any:
        """The reference of an answer."""
        return getattr(self._actor, method).remote(*arguments)

    def answer(self, reference: Any) -> Any:
        """What the scanner has answered.

        Raises:
            UnavailableError: It was lost.
            Exception: What it has raised.
        """
        try:
            return ray.get(reference)
        except RayTaskError as failure:
            raise (failure.cause if isinstance(failure.cause, Exception) else failure) from failure
        except RayError as failure:
            raise self.lost(str(failure)) from failure

    def lost(self, why: str) -> UnavailableError:
        """Gives the scanner up, which is made again later; returns what callers are told."""
        _log.error("shard %s was lost: %s", self._name, why)
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = self._loading = self._ping = None
        self._next_try = time.monotonic() + self._delay_s
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
        return self.error()

    def look_after(self) -> None:
        """Notices a scanner that has died, or has not answered for a while."""
        if not self.is_ready():
            return
        if self._ping is None:
            self._ping = self._actor.ping.remote(), time.monotonic()
            return
        reference, since = self._ping
        if not ray.wait([reference], timeout=0)[0]:
            if time.monotonic() - since > HANG_S:
                self.lost("it does not answer")
            return
        self._ping = None
        try:
            ray.get(reference)
        except RayError as failure:
            self.lost(str(failure))

    def _fill(self) -> None:
        options = {"name": f"{self._shard.digest} {self._name}", "get_if_exists": True, "memory": self._memory}
        self._actor = self._make.options(**options).remote(self._cores)
        self._loading = self._actor.load.remote(self._shard)

    def _arrived(self) -> None:
        """Looks at how loading has ended."""
        reference, self._loading = self._loading, None
        try:
            ray.get(reference)
        except RayTaskError as failure:
            self._told = str(failure.cause)
            self.lost(str(failure))
        except RayError as failure:
            self.lost(str(failure))
        else:
            self._was_ready, self._told, self._delay_s = True, "", FIRST_DELAY_S
