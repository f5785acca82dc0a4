"""All experiments by name, in the order of the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from proponent.datasets.cifar10 import LOSSLESS_FILE
from proponent.datasets.motorbike_fruit import FILE
from proponent.errors import NotFoundError
from proponent.study.code import code_of
from proponent.study.outcome import Outcome
from proponent.study.workbench import Workbench


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        name: What the command line calls it; also the module in `proponent.study.experiments`.
        title: What it is about.
        part: Which part of the paper it reproduces or extends.
        data: Files of the data root that it reads, each by the names that it may have.
    """

    name: str
    title: str
    part: str
    data: Sequence[Sequence[str]] = ()

    @property
    def run(self) -> Callable[[Workbench], Outcome]:
        """What runs it."""
        run: Callable[[Workbench], Outcome] = import_module(self._module).run
        return run

    @property
    def code(self) -> str:
        """A digest of the code that it runs."""
        return code_of(self._module)

    @property
    def _module(self) -> str:
        return f"proponent.study.experiments.{self.name}"


_MNIST = ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-images-idx3-ubyte.gz")
_CIFAR10 = (LOSSLESS_FILE,)
_PHOTOGRAPHS = (FILE,)
_EVERY = (_MNIST, _CIFAR10, _PHOTOGRAPHS)
_ALL = (
    Experiment("first_order", "Equation 5 against retraining", "equation 5, section 4.2"),
    Experiment("nonconvex", "Where the loss is not convex", "figures 2 and 3, section 5"),
    Experiment("outlier", "The outlier and the neighbours", "figure 4, section 6"),
    Experiment(
        "table1", "Loss after removing the most influential training points", "table 1, section 7.1", [_MNIST]
    ),
    Experiment("figure5", "Examples of the logistic regression", "figure 5, section 7.1", [_MNIST]),
    Experiment("binary_cnn", "The binary CNN and its losses", "figures 6 to 8, section 7.2", [_PHOTOGRAPHS]),
    Experiment("figure9", "A shallow CNN on CIFAR-10", "figure 9, section 7.3", [_CIFAR10]),
    Experiment("figure10", "EfficientNet-B0 on CIFAR-10", "figure 10, section 7.3", [_CIFAR10]),
    Experiment("figure11", "ResNet-50 on CIFAR-10", "figure 11, section 7.3", [_CIFAR10]),
    Experiment("table2", "Seconds per test sample, on the fly and from the index", "table 2, section 7.4", _EVERY),
    Experiment("depth", "What depth does to explanations", "section 7.3, by figures", [_CIFAR10]),
    Experiment("divine", "DIVINE with three terms", "section 6.2, planned", _EVERY),
    Experiment("kronecker", "K-FAC, EK-FAC and the exact Hessian", "section 8, proposed", [_MNIST]),
    Experiment("fisher_kernel", "Sets that represent the test data", "section 3, reviewed"),
    Experiment("shapley", "Data Shapley", "section 3, reviewed"),
    Experiment("groups", "Groups and the second order", "section 3, reviewed"),
)

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType({each.name: each for each in _ALL})
"""Every experiment by name."""
ALL = "all"


def chosen(names: list[str]) -> list[Experiment]:
    """The experiments named, each once, in the order of the paper; ``all`` means all.

    Raises:
        NotFoundError: One is unknown; the message lists those there are.
    """
    for name in names:
        if name not in EXPERIMENTS and name != ALL:
            message = f"experiment {name!r} is unknown, expected {ALL} or some of {', '.join(EXPERIMENTS)}"
            raise NotFoundError(message, field="experiment", reason="EXPERIMENT_UNKNOWN")
    return [each for each in _ALL if ALL in names or each.name in names]
