"""A worker's start in a process of its own: loads a bundle, explains an input, and prints what it took as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from proponent.errors import ProponentError
from proponent.explainer import Explainer
from proponent.gateway.hosting.worker_state import resident_bytes
from proponent.worker.warmup import warmed_up


def main() -> None:
    """Reads the bundle, and the deployed weights or nothing, from the command line."""
    bundle, weights = sys.argv[1:]
    try:
        explainer = warmed_up(Explainer.load(Path(bundle), weights=Path(weights) if weights else None))
    except ProponentError as error:
        print(json.dumps({"error": f"{error.message} [{error.reason}]"}))
    else:
        print(json.dumps({"resident": resident_bytes(os.getpid())}))
        del explainer


if __name__ == "__main__":
    main()
