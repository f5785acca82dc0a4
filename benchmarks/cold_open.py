"""Opening a bundle and answering the first query, cold; and whether workers share its rows.

The page cache is dropped for the bundle's files before each opening. Workers are processes that open the same
bundle and answer one query; the proportional set size of the mapped rows (PSS, from /proc/PID/smaps) is compared
with one copy.

Run: ``python benchmarks/cold_open.py BUNDLE [--workers 2]``. Prints JSON. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from proponent.index.bundle import ROWS

CODE = """
import sys, time
import torch
from pathlib import Path
from proponent.explainer import Explainer
from proponent.options import (ExplainOptions)
begin = time.perf_counter()
explainer = Explainer.load(Path(sys.argv[1]))
loaded = time.perf_counter() - begin
[answer] = explainer.explain([torch.rand(explainer.signature.shape)], [ExplainOptions()])
print(loaded, time.perf_counter() - begin, flush=True)
sys.stdin.readline()
"""


def forget_pages(bundle: Path) -> None:
    """Drops the bundle's files from the page cache."""
    os.sync()
    for path in bundle.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def open_worker(bundle: Path) -> tuple[subprocess.Popen[str], list[float]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(bundle)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [float(x) for x in process.stdout.readline().split()]


def row_pss(pid: int) -> float:
    """Proportional set size of the mapped rows, MB."""
    text = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8")
    parts = re.findall(r"rows\.faiss\n(?:\w+:.*\n)*?Pss: +(\d+) kB", text)
    return sum(int(part) for part in parts) / 1000


def measured(bundle: Path, workers: int) -> dict[str, Any]:
    """Seconds of the first opening and its first answer, and megabytes of the bundle and of the rows by worker."""
    forget_pages(bundle)
    opened = [open_worker(bundle)]
    loaded, answered = opened[0][1]
    opened += [open_worker(bundle) for _ in range(workers - 1)]
    pss = [round(row_pss(process.pid), 1) for process, _ in opened]
    for process, _ in opened:
        process.communicate("\n")
    size, rows = (sum(path.stat().st_size for path in bundle.glob(name)) / 1e6 for name in ("*", ROWS))
    return {
        "bundle_mb": round(size),
        "rows_mb": round(rows),
        "opened_s": round(loaded, 2),
        "first_answer_s": round(answered, 2),
        "pss_mb": pss,
        "copies": round(sum(pss) / rows, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps(measured(options.bundle, options.workers), indent=1))


if __name__ == "__main__":
    main()
