"""Makes what is served what the store says: mended models are taken up and, where asked, the store is watched.

Each model is dealt with by itself, one attempt at a time and ever more rarely while attempts fail, so that none
keeps another one waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import structlog

from proponent.errors import ProponentError, as_state
from proponent.gateway.error_mapping import as_proponent_error
from proponent.gateway.rollout.membership import Membership
from proponent.gateway.rollout.store_listing import StoreListing, look
from proponent.gateway.rollout.switch import Rollout
from proponent.gateway.served_model import ServedModel
from proponent.index.store import Store

EVERY_S = 1.0
GONE_AFTER = 5
"""Looks in a row that do not show a model before it counts as gone."""
_FIRST_DELAY_S = 2.0
_LONGEST_DELAY_S = 60.0
_log = structlog.get_logger("proponent.gateway")

Act = Callable[[], Coroutine[Any, Any, object]]


class Reconciliation:
    """What has to be done to serve what the store holds; ``run`` does it.

    Args:
        models: Those that are served.
        membership: Adds and removes them.
        rollout: Switches them to other bundles.
        store: Where they are.
        watches: Whether models that come to the store or leave it, and pointers that move, are followed.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        membership: Membership,
        rollout: Rollout,
        store: Store,
        *,
        watches: bool,
    ) -> None:
        self._models = models
        self._membership = membership
        self._rollout = rollout
        self._store = store
        self._watches = watches
        self._attempts: dict[str, _Attempt] = {}
        self._absent = Counter[str]()
        self._place: tuple[int, int] | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                await self.step()
        finally:
            for attempt in self._attempts.values():
                attempt.task.cancel()

    async def step(self) -> None:
        """One look."""
        for name, model in list(self._models.items()):
            if not model.readable:
                self._try(name, partial(self._mend, name))
        listing = await self._look() if self._watches else None
        if listing is not None:
            self._follow(listing)

    async def _look(self) -> StoreListing | None:
        """The store, or None where what is seen of it cannot be all."""
        try:
            listing = await asyncio.to_thread(look, self._store.root)
        except OSError as error:
            self._complain(f"the store cannot be listed: {error}")
            return None
        if listing.models:
            self._place = listing.place
        elif listing.place != self._place:
            self._complain("another directory without models is in the store's place")
            return None
        self._complain("")
        return listing

    def _complain(self, trouble: str) -> None:
        """Says once that the store cannot be followed, and that it can be again."""
        if trouble and not self._trouble:
            _log.warning("what is served stays as it is", why=trouble, store=str(self._store.root))
        elif self._trouble and not trouble:
            _log.info("the store can be listed again", store=str(self._store.root))
        self._trouble = trouble

    def _follow(self, listing: StoreListing) -> None:
        for name, digest in listing.models.items():
            self._absent.pop(name, None)
            if name in self._models:
                if digest is not None and self._is_behind(name, digest):
                    self._try(name, partial(self._rollout.serve_current, name, "publish"))
            elif self._membership.takes(name):
                self._try(name, partial(self._membership.add, name))
        for name in set(self._models) - set(listing.models):
            self._absent[name] += 1
            if self._absent[name] >= GONE_AFTER:
                self._try(name, partial(self._membership.remove, name), now=True)
        self._membership.keep_commands(listing.models)

    def _is_behind(self, name: str, digest: str) -> bool:
        model = self._models[name]
        return model.readable and model.deployment.manifest.digest != digest

    def _try(self, name: str, act: Act, *, now: bool = False) -> None:
        """Starts an attempt for a model, unless one is under way or it is too early for another and not ``now``."""
        attempt = self._attempts.get(name)
        if attempt is None:
            attempt = self._attempts[name] = _Attempt()
        elif not attempt.task.done() or (time.monotonic() < attempt.due and not now):
            return
        attempt.task = asyncio.create_task(self._attempt(name, act, attempt))

    async def _attempt(self, name: str, act: Act, attempt: _Attempt) -> None:
        try:
            await act()
        except Exception as error:
            attempt.fail()
            self._note(name, as_state(as_proponent_error(error)), attempt)
        else:
            del self._attempts[name]

    def _note(self, name: str, error: ProponentError, attempt: _Attempt) -> None:
        if attempt.said != error.message:
            _log.warning("model cannot be taken up", model=name, reason=error.reason, why=error.message)
        attempt.said = error.message

    async def _mend(self, name: str) -> None:
        """Serves a model whose bundle could not be read; callers are told what is wrong with it now."""
        try:
            await self._rollout.serve_current(name, "repair")
        except Exception as error:
            model = self._models.get(name)
            if model is not None and not model.readable:
                model.set_error(as_state(as_proponent_error(error)))
            raise


class _Attempt:
    """The last attempt for a model, and when there may be another one."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.due = 0.0
        self.said = ""
        self._delay = _FIRST_DELAY_S / 2

    def fail(self) -> None:
        """Doubles the time until the next one."""
        self._delay = min(2 * self._delay, _LONGEST_DELAY_S)
        self.due = time.monotonic() + self._delay
