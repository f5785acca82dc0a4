"""What tests under load saw, for a file of results."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """Keeps what a test saw under its name; ``path`` None prints it alone."""

    path: Path | None

    def __call__(self, name: str, **seen: Any) -> None:
        print(name, seen)
        if self.path is not None:
            known = json.loads(self.path.read_text()) if self.path.exists() else {}
            machine = {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)}
            self.path.write_text(json.dumps({**known, name: {**seen, **machine}}, indent=1) + "\n")
