"""Logs on standard error: for people on a terminal, else one logfmt line for each event.

Callers can neither forge lines nor flood the log: what cannot be seen is escaped, and the same event is written so
many times a second and then counted.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from proponent.errors import printable

# Records of calls are what a log is for; the same warning or defect over and over is not.
CALLS_PER_SECOND = 1000
WARNINGS_PER_SECOND = 20
_LONGEST = 2000
"""Characters of a value that a caller may have written: a path, or the name of a field."""
# Written by this side, over several lines.
_TEXTS = ("exception", "worker", "torchserve", "java")
_FIRST_KEYS = ("timestamp", "level", "event")
# Lines of what logfmt writes as it is, of strings and numbers.
_are_plain = re.compile(r"(?:(?!None\n|True\n|False\n)[\w.,:;/@+*()<>|~^-]+\n)*", re.ASCII).fullmatch


class Throttle:
    """Lets the same event through so many times a second; counts the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def admit(self, event: Hashable, most: int) -> int | None:
        """None where the event is one too many; else how many were left out since the last one that was not."""
        now = self._clock()
        since, count = self._seen.get(event, (now, 0))
        left_out = 0
        if now - since >= 1:
            left_out, since, count = max(0, count - most), now, 0
        self._seen[event] = (since, count + 1)
        return left_out if count < most else None


class _Limited:
    """A structlog processor that throttles."""

    def __init__(self) -> None:
        self._throttle = Throttle()

    def __call__(self, _: WrappedLogger, method: str, event: EventDict) -> EventDict:
        most = CALLS_PER_SECOND if method in ("debug", "info") else WARNINGS_PER_SECOND
        left_out = self._throttle.admit((method, event["event"]), most)
        if left_out is None:
            raise structlog.DropEvent
        return {**event, "left_out": left_out} if left_out else event


class _LimitedLibrary(logging.Filter):
    """The same for what libraries log."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        left_out = self._throttle.admit((record.name, record.msg), WARNINGS_PER_SECOND)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more)", ()
        return left_out is not None


class _SafeFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message, keep="")
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return printable(super().formatException(ei))


def bounded(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor that cuts values short: one call must not fill a disk."""
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _LONGEST and key not in _TEXTS:
            event[key] = f"{value[:_LONGEST]}... ({len(value)} characters)"
    return event


def escaped(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor that escapes what cannot be seen."""
    return {
        key: printable(value, keep="\n\t" if key in _TEXTS else "") if isinstance(value, str) else value
        for key, value in event.items()
    }


def write_or_drop(stream: TextIO | None, text: str) -> None:
    """Writes to a standard stream; where its disk is full or its reader gone, that costs the text and stops nothing.

    Nothing is kept for later, so that the end of the process does not fail either.
    """
    if stream is not None:
        with suppress(OSError):
            os.write(stream.fileno(), text.encode(errors="backslashreplace"))


class _StandardError:
    """The file of the logs."""

    def write(self, text: str) -> None:
        write_or_drop(sys.__stderr__, text)

    def flush(self) -> None:
        pass


class _Lines:
    """The loggers of a gateway whose log is a file: one line of logfmt for an event, made in one step.

    Every call writes one. structlog's chain of processors takes three times as long for it.
    """

    def __init__(self) -> None:
        self._throttle = Throttle()
        self._thorough = structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS, bool_as_flag=False)
        self._second, self._until_second = 0, ""

    def write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Writes an event, if it has not come too often."""
        most = CALLS_PER_SECOND if level == "info" else WARNINGS_PER_SECOND
        left_out = self._throttle.admit((level, event), most)
        if left_out is None:
            return
        if "exc_info" in fields:
            fields = dict(structlog.processors.format_exc_info(None, level, fields))
        if left_out:
            fields["left_out"] = left_out
        fields = dict(bounded(None, level, fields))
        first = {"timestamp": self._timestamp(), "level": level, "event": event}
        write_or_drop(sys.__stderr__, f"{self._rendered({**first, **fields})}\n")

    def _rendered(self, event: EventDict) -> str:
        """What cannot be seen is escaped; most values need neither quotes nor escapes."""
        texts = [f"{value}\n" for value in event.values()]
        lines = "".join(texts)
        if lines.count("\n") == len(texts) and _are_plain(lines):
            return " ".join([f"{key}={value}" for key, value in event.items()])
        return str(self._thorough(None, "", escaped(None, "", event)))

    def _timestamp(self) -> str:
        now = time.time_ns()
        second = now // 10**9
        if second != self._second:
            self._second, self._until_second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._until_second}.{now % 10**9 // 1000:06}Z"


class _LineLogger(structlog.BoundLoggerBase):
    """A logger as the gateway's code uses it: events with fields, of which those for debugging are not written."""

    lines = _Lines()

    def debug(self, event: str, **fields: Any) -> None:
        """Writes nothing."""

    def info(self, event: str, **fields: Any) -> None:
        """Writes what happened."""
        self.lines.write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Writes what somebody may want to look at."""
        self.lines.write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Writes what somebody has to look at."""
        self.lines.write("error", event, fields)


def configure_logs() -> None:
    """Sets up structlog and what the libraries log as warnings."""
    file: Any = _StandardError()
    handler = logging.StreamHandler(file)
    handler.setFormatter(_SafeFormatter("%(levelname)s %(name)s %(message)s"))
    handler.addFilter(_LimitedLibrary())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if sys.stderr is None or not sys.stderr.isatty():
        structlog.configure(wrapper_class=_LineLogger, cache_logger_on_first_use=True)
        return
    structlog.configure(
        processors=[
            _Limited(),
            bounded,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            escaped,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file),
        cache_logger_on_first_use=True,
    )
