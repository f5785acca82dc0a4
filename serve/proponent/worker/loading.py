"""What a worker holds of a bundle: an explainer or predictor, or the reason why not, which is tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from proponent.errors import CorruptBundleError, ProponentError, UnavailableError, as_state
from proponent.explainer import Predictor
from proponent.index.storage import unreadable

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0
_log = logging.getLogger("proponent.worker.batch")


class LoadedBundle:
    """Loads at once. After a failure it loads again when asked, but each time waits twice as long before that.

    Args:
        load: Opens the bundle; whatever it raises becomes the answer to everything.
        clock: Monotonic seconds.
    """

    def __init__(self, load: Callable[[], Predictor], clock: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._clock = clock
        self._delay = _FIRST_DELAY_S
        self._found = self._try()

    @property
    def predictor(self) -> Predictor | ProponentError:
        """The explainer or predictor, or why there is none."""
        if isinstance(self._found, ProponentError) and self._clock() >= self._next_try:
            self._delay = min(2 * self._delay, _LONGEST_DELAY_S)
            self._found = self._try()
        return self._found

    def checked(self) -> Predictor | ProponentError:
        """The same after a look at what answers need.

        A bundle that was damaged meanwhile is let go of; one that waits for something that comes back is kept.
        """
        found = self.predictor
        if isinstance(found, ProponentError):
            return found
        try:
            found.check()
        except Exception as error:
            if isinstance(error, UnavailableError) and not isinstance(error, CorruptBundleError):
                return error
            self._delay = _FIRST_DELAY_S
            self._found = self._failed(error)
        return self._found

    def _try(self) -> Predictor | ProponentError:
        try:
            return self._load()
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> ProponentError:
        self._next_try = self._clock() + self._delay
        if not isinstance(error, ProponentError):
            _log.exception("the bundle could not be loaded", exc_info=error)
        told = _told(error)
        # What the frames of a kept error hold may be a whole model.
        told.__traceback__ = told.__cause__ = told.__context__ = None
        return told


def _told(error: Exception) -> ProponentError:
    """What callers are told: that no answer is possible now, whatever went wrong; a defect discloses nothing."""
    if isinstance(error, ProponentError):
        return as_state(error)
    if isinstance(error, OSError):
        return unreadable(error)
    return UnavailableError(
        f"the model could not be loaded ({type(error).__name__}); the log of its worker has the details",
        reason="MODEL_NOT_LOADED",
    )
