"""What a caller may be told in a window of time: explanations, and different training examples.

A window begins with a caller's first disclosure in it. Examples are kept as 64-bit hashes; the number of accounts is
bounded, and who would need one more is refused: an account that is thrown away would be a budget that begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from proponent.errors import QuotaError
from proponent.gateway.auth import Caller

MOST_ACCOUNTS = 10_000


@dataclass
class _Account:
    began: float
    explanations: int = 0
    examples: set[int] = field(default_factory=set)


class DisclosureBudget:
    """The accounts of all callers, by name.

    Args:
        window_s: Length of a window.
        clock: Seconds of the wall clock, as in the audit log.
    """

    def __init__(self, window_s: float, clock: Callable[[], float] = time.time) -> None:
        self._window_s = window_s
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def begin_explanation(self, caller: Caller) -> None:
        """Counts an explanation, before it is computed.

        Raises:
            QuotaError: The caller has had all of its window (EXPLANATIONS_SPENT).
        """
        most = caller.allowance.explanations
        if not most:
            return
        account = self._account(caller.name)
        if account.explanations >= most:
            raise self._spent(caller, account, f"{most} explanations", "EXPLANATIONS_SPENT")
        account.explanations += 1

    def give_back(self, caller: Caller) -> None:
        """Takes back the count of an explanation that came to nothing."""
        account = self._accounts.get(caller.name)
        if account is not None and account.explanations:
            account.explanations -= 1

    def disclose(self, caller: Caller, model: str, example_ids: Collection[str]) -> None:
        """Counts training examples that a reply names; those of this window before are free.

        Raises:
            QuotaError: They would be more than are left (EXAMPLES_SPENT); none is counted then.
        """
        most = caller.allowance.examples
        if not most or not example_ids:
            return
        account = self._account(caller.name)
        new = {hash((model, each)) for each in example_ids} - account.examples
        if len(account.examples) + len(new) > most:
            left = most - len(account.examples)
            what = f"{most} different training examples ({left} are left, the reply names {len(new)} new ones)"
            raise self._spent(caller, account, what, "EXAMPLES_SPENT")
        account.examples |= new

    def restore(self, name: str, at: float, model: str, example_ids: Collection[str], *, explanation: bool) -> None:
        """Counts what was disclosed at a time before this process began, if that is in a window still."""
        if at + self._window_s <= self._clock():
            return
        account = self._accounts.get(name)
        if account is None or at >= account.began + self._window_s:
            account = self._accounts[name] = _Account(at)
        account.explanations += explanation
        account.examples |= {hash((model, each)) for each in example_ids}

    def _account(self, name: str) -> _Account:
        now = self._clock()
        account = self._accounts.get(name)
        if account is not None and now < account.began + self._window_s:
            account.began = min(account.began, now)  # a clock that was set back begins no new window
            return account
        if len(self._accounts) >= MOST_ACCOUNTS and name not in self._accounts:
            self._remove_old(now)
        account = self._accounts[name] = _Account(now)
        return account

    def _remove_old(self, now: float) -> None:
        """Makes room for an account; raises QuotaError where no window has ended."""
        ends = {name: each.began + self._window_s for name, each in self._accounts.items()}
        self._accounts = {name: each for name, each in self._accounts.items() if ends[name] > now}
        if len(self._accounts) >= MOST_ACCOUNTS:
            message = f"{MOST_ACCOUNTS} callers have budgets now, the most this server keeps; try again"
            raise QuotaError(message, reason="BUDGETS_FULL", retry_after_s=min(ends.values()) - now)

    def _spent(self, caller: Caller, account: _Account, what: str, reason: str) -> QuotaError:
        message = f"caller {caller.name!r} may be told {what} in {self._window_s:g} s"
        return QuotaError(message, reason=reason, retry_after_s=account.began + self._window_s - self._clock())
