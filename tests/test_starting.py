"""A worker that stands back does so with every thread that computes, and its heart beats on as before."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

STANDING_BACK = """
import os, sys, threading
from pathlib import Path
import torch
from proponent.bounds.liveness import HEARTBEAT, start_heartbeat
from proponent.worker.starting import stand_back

torch.set_num_threads(3)
start_heartbeat(Path(sys.argv[1]))
torch.randn(1 << 20).sum()
[heart] = [thread.native_id for thread in threading.enumerate() if thread.name == HEARTBEAT]
stand_back(7)
threading.Thread(target=threading.Event().wait, daemon=True).start()
for task in map(int, os.listdir("/proc/self/task")):
    print("heart" if task == heart else "other", os.getpriority(os.PRIO_PROCESS, task))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a niceness is that of a process")
def test_threads_that_were_there_before_stand_back_too(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STANDING_BACK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = Counter(done.stdout.splitlines())
    assert found.pop("heart 0") == 1
    assert set(found) == {"other 7"} and found["other 7"] >= 4, "main, two of torch's, one begun later"
