"""Opening a bundle and answering the first query, cold; and whether workers share its rows.

The page cache is dropped for the bundle's files before each opening. Workers are processes that open the same
bundle and answer one query; the proportional set size of the mapped rows (PSS, from /proc/PID/smaps) is compared
with one copy.

Run: ``python benchmarks/cold_open.py BUNDLE [--workers 2]``. Prints a table, then one JSON object. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    size = sum(path.stat().st_size for path in options.bundle.iterdir()) / 1e6
    rows = (options.bundle / "rows.faiss").stat().st_size / 1e6
    forget_pages(options.bundle)
    workers = [open_worker(options.bundle)]
    loaded, answered = workers[0][1]
    workers += [open_worker(options.bundle) for _ in range(options.workers - 1)]
    pss = [round(row_pss(process.pid), 1) for process, _ in workers]
    for process, _ in workers:
        process.communicate("\n")
    print(f"bundle {size:.0f} MB, rows {rows:.0f} MB")
    print(f"cold: opened after {loaded:.2f} s, first answer after {answered:.2f} s (target 4 s)")
    print(f"PSS of the rows in {len(pss)} workers: {pss} MB, together {sum(pss) / rows:.2f} copies")
    found = {"bundle_mb": round(size), "rows_mb": round(rows), "opened_s": round(loaded, 2)}
    print(json.dumps({**found, "first_answer_s": round(answered, 2), "pss_mb": pss}))


if __name__ == "__main__":
    main()
