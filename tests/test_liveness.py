"""What stands in the table is wanted and nothing else is; a process that is halted falls silent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proponent.bounds.liveness import BEAT_S, TICKETS, TicketIssuer, TicketTable, remove_heartbeats, silence_s

BEATING = """
import sys, time
from pathlib import Path
from proponent.bounds.liveness import start_heartbeat
start_heartbeat(Path(sys.argv[1]))
print("beating", flush=True)
time.sleep(60)
"""


@pytest.fixture
def office(tmp_path: Path) -> TicketIssuer:
    return TicketIssuer.create(tmp_path / "liveness", 3)


def test_a_ticket_stands_until_it_is_withdrawn_or_retired(office: TicketIssuer, tmp_path: Path) -> None:
    table = TicketTable.open(tmp_path / "liveness")
    first, second = office.issue(), office.issue()
    assert first != second and table.holds(first) and table.holds(second) and table.holds(0)
    office.withdraw(first)
    assert not table.holds(first) and table.holds(second)
    office.retire(second)
    assert not table.holds(second) and not table.holds(77)
    table.close()


def test_a_cell_is_taken_until_the_work_is_done_and_old_tickets_stay_invalid(office: TicketIssuer) -> None:
    tickets = [office.issue() for _ in range(3)]
    assert all(tickets) and office.issue() == 0
    office.withdraw(tickets[0])
    assert office.issue() == 0
    office.retire(tickets[0])
    again = office.issue()
    assert again % 3 == tickets[0] % 3 and again not in tickets
    office.withdraw(tickets[0])
    assert office.holds(again) and not office.holds(tickets[0])


def test_a_halted_process_falls_silent_and_speaks_again(office: TicketIssuer, tmp_path: Path) -> None:
    directory = tmp_path / "liveness"
    child = subprocess.Popen([sys.executable, "-c", BEATING, str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "beating\n"
        _wait(lambda: silence_s(directory, child.pid) < BEAT_S)
        child.send_signal(signal.SIGSTOP)
        _wait(lambda: silence_s(directory, child.pid) > 2 * BEAT_S)
        child.send_signal(signal.SIGCONT)
        _wait(lambda: silence_s(directory, child.pid) < BEAT_S)
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def test_what_a_worker_has_begun_with_is_told_apart_from_what_is_wanted(office: TicketIssuer, tmp_path: Path) -> None:
    table, first, second = TicketTable.open(tmp_path / "liveness"), office.issue(), office.issue()
    table.begin(first)
    table.begin(0)
    assert [office.has_begun(ticket) for ticket in (first, second, 0)] == [True, False, True]
    assert office.holds(first) and office.holds(second)
    for ticket in (first, second, office.issue()):
        office.retire(ticket)
    assert not any(office.has_begun(office.issue()) for _ in range(3))
    table.close()


def test_heartbeats_go_with_their_processes(office: TicketIssuer, tmp_path: Path) -> None:
    directory = tmp_path / "liveness"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        (directory / str(pid)).write_bytes(bytes(8))
    remove_heartbeats(directory)
    assert {path.name for path in directory.iterdir()} == {TICKETS, str(os.getpid())}


def test_a_process_that_never_spoke_is_not_called_silent(tmp_path: Path) -> None:
    assert silence_s(tmp_path, 1) == 0.0


def _wait(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
