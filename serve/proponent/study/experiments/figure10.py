"""Figure 10: EfficientNet-B0 on CIFAR-10."""

from __future__ import annotations

from proponent.study.networks import figure
from proponent.study.outcome import Outcome
from proponent.study.workbench import Workbench


def run(bench: Workbench) -> Outcome:
    """Trains, indexes, draws and counts."""
    return figure(bench, "EfficientNet-B0")
