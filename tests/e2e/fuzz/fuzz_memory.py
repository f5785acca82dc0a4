"""Memory of a service while inputs come: flat, or by how much it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil

WARM_UP = 0.4
"""Share of a run in which caches fill and allocators find their size."""
ALLOWED = 0.05
"""Growth over the rest, as a share of what is held after the warm-up."""
MIB = 1 << 20


@dataclass
class MemoryWatch:
    """Resident sizes of processes by the number of inputs that had been answered.

    Attributes:
        processes: By the name under which they are reported.
        answered: Inputs until now.
        readings: Number of inputs and bytes, for each process.
    """

    processes: Mapping[str, psutil.Process]
    answered: int = 0
    readings: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def read(self) -> None:
        """Takes a reading of each process that still runs."""
        for name, process in self.processes.items():
            if process.is_running():
                self.readings.setdefault(name, []).append((self.answered, process.memory_info().rss))

    def ended(self) -> list[str]:
        """The processes that do not run any more."""
        return [name for name, process in self.processes.items() if not process.is_running()]

    def trends(self) -> list[Trend]:
        """What each process held, and how that changed."""
        return [Trend.of(name, found) for name, found in self.readings.items()]


@dataclass(frozen=True)
class Trend:
    """A straight line through the readings after the warm-up.

    Attributes:
        name: Of the process.
        held: Bytes where the warm-up ends, by the line.
        growth: Bytes that are added from there to the end, by the line.
        per_thousand: The same for each 1,000 inputs.
    """

    name: str
    held: float
    growth: float
    per_thousand: float

    @classmethod
    def of(cls, name: str, readings: Sequence[tuple[int, int]]) -> Trend:
        """The trend of a process."""
        inputs, sizes = np.array(readings[int(WARM_UP * len(readings)) :], float).T
        slope, start = np.polyfit(inputs, sizes, 1) if len(inputs) > 1 else (0.0, sizes[0])
        return cls(name, start + slope * inputs[0], slope * (inputs[-1] - inputs[0]), 1000 * slope)

    @property
    def flat(self) -> bool:
        """Whether it grows by less than is allowed."""
        return self.growth <= ALLOWED * self.held

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.held / MIB:.0f} MiB after the warm-up, then {self.growth / MIB:+.1f} MiB "
            f"({self.per_thousand / MIB:+.3f} MiB for each 1,000 inputs)"
        )
