"""Figure 11: ResNet-50 on CIFAR-10."""

from __future__ import annotations

from proponent.study.networks import figure
from proponent.study.outcome import Outcome
from proponent.study.workbench import Workbench


def run(bench: Workbench) -> Outcome:
    """Trains, indexes, draws and counts."""
    return figure(bench, "ResNet-50")
