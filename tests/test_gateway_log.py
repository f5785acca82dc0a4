"""Nobody forges lines of the log, drives a terminal through it, or fills a disk with it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proponent.errors import InvalidInputError, printable
from proponent.gateway.log import CALLS_PER_SECOND, WARNINGS_PER_SECOND, Throttle, _Lines, escaped

EVIL = "a\x1b[2J\x00\r\nlevel=error event=forged\u2028\u202e\ud800"


@given(st.text())
def test_what_is_left_can_be_seen_and_sent(text: str) -> None:
    shown = printable(text, keep="")
    assert shown.isprintable() and shown.encode().decode() == shown
    assert printable(shown, keep="") == shown


def test_an_error_holds_no_control_characters() -> None:
    error = InvalidInputError(f"no key {EVIL}", field=EVIL)
    assert error.message.replace("\n", "").isprintable() and str(error) == error.message
    assert "\\ud800" in error.field and "\\x1b" in error.field


def logged(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from proponent.gateway.log import *; configure_logs()\n" + code],
        capture_output=True,
        check=True,
    )
    assert not done.stdout
    return done.stderr.decode().splitlines()


@pytest.mark.parametrize(
    "write",
    [
        "structlog.get_logger().info('http', path=EVIL)",
        "structlog.get_logger().warning(EVIL)",
        "logging.getLogger('asyncio').warning(EVIL)",
    ],
)
def test_an_event_is_one_line_without_control_characters(write: str) -> None:
    (line,) = logged(f"EVIL = {EVIL!r}\n{write}")
    assert line.isprintable() and "\\x1b[2J" in line and "forged" in line


VALUES = st.text() | st.text('ab =\n"1NoneTru', max_size=6) | st.integers() | st.floats() | st.booleans() | st.none()


@example({"reason": "a\nb"})
@example({"reason": None, "field": True})
@given(st.dictionaries(st.sampled_from(["reason", "field", "ms"]), VALUES))
def test_the_short_way_to_a_line_is_the_thorough_one(fields: dict[str, Any]) -> None:
    lines, event = _Lines(), {"timestamp": "t", "level": "info", "event": "rpc", **fields}
    assert lines._rendered(dict(event)) == lines._thorough(None, "", escaped(None, "", dict(event)))


def test_no_value_fills_a_disk() -> None:
    (line,) = logged("structlog.get_logger().info('rpc', field='parameters.' + 2_000_000 * 'p', code='OK')")
    assert len(line) < 3000 and "2000011 characters" in line and "code=OK" in line
    (line,) = logged("structlog.get_logger().error('not ready', worker=5000 * 'w')")
    assert 5000 * "w" in line


def test_a_traceback_is_kept_and_escaped() -> None:
    code = "try: raise ValueError('\\x1b[2J')\nexcept ValueError as error: {}.error('defect', exc_info=error)"
    (line,) = logged(code.format("structlog.get_logger()"))
    assert "Traceback" in line and "ValueError" in line and line.isprintable()
    lines = logged(code.format("logging.getLogger('asyncio')"))
    assert lines[1].startswith("Traceback") and all(each.isprintable() for each in lines)


def test_the_same_event_is_counted_and_not_repeated() -> None:
    code = "for n in range(5000): {}.warning('accept failed'{})\ntime.sleep(1)\n{}.warning('accept failed')"
    for logger in ("structlog.get_logger()", "logging.getLogger('asyncio')"):
        lines = logged(code.format(logger, ", n=n" if "struct" in logger else "", logger))
        assert WARNINGS_PER_SECOND < len(lines) < 10 * WARNINGS_PER_SECOND
        assert "more)" in lines[-1] or "left_out=" in lines[-1]


def test_calls_have_room_and_other_events_are_not_held_up() -> None:
    now = 0.0
    throttle = Throttle(lambda: now)
    assert [throttle.admit("a", 2) for _ in range(5)] == [0, 0, None, None, None]
    assert throttle.admit("b", 2) == 0
    now = 1.0
    assert [throttle.admit("a", 2) for _ in range(3)] == [3, 0, None]
    assert CALLS_PER_SECOND > WARNINGS_PER_SECOND and logging.root.level <= logging.WARNING


@pytest.mark.parametrize("closed", ["full disk", "gone reader", "closed"])
def test_a_log_that_cannot_be_written_stops_nothing(closed: str) -> None:
    """The process goes on and ends well: a line is lost, no call is."""
    lines = "structlog.get_logger().info('a call'); logging.getLogger('asyncio').warning('odd')"
    code = f"from proponent.gateway.log import *; configure_logs(); {lines}; print('went on')"
    command = [sys.executable, "-c", code]
    if closed == "closed":
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    with open("/dev/full", "wb", buffering=0) as full:
        reader, writer = os.pipe()
        os.close(reader)
        error = {"full disk": full.fileno(), "gone reader": writer, "closed": None}[closed]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=error, timeout=60)
        os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"went on\n")
