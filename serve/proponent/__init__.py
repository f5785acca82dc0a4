"""Serve a PyTorch classifier with the training examples that argued for and against each prediction.

The names below are the library's public ones; each is loaded when it is first used, so that importing the package
alone is quick and needs neither torch nor faiss.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "proponent.spec": ("ModelSpec", "load_spec"),
    "proponent.index.store": ("Store",),
    "proponent.rebuild.pipeline": ("RebuildOptions",),
    "proponent.explainer": ("Explainer",),
    "proponent.client": ("AsyncClient", "Client", "Retry", "Tls"),
    "proponent.errors": (
        "CorruptBundleError",
        "DeadlineError",
        "InvalidInputError",
        "MismatchError",
        "NotFoundError",
        "OverloadedError",
        "PermissionDeniedError",
        "ProponentError",
        "SpecError",
        "UnavailableError",
    ),
    "proponent.options": (
        "DeadlinePolicy",
        "Diversity",
        "Estimator",
        "ExampleQuery",
        "ExplainIf",
        "ExplainOptions",
        "Filter",
        "Measure",
        "OrderBy",
        "Ranking",
        "Redundancy",
        "Side",
        "Target",
        "View",
    ),
    "proponent.text": ("Text",),
    "proponent.results": (
        "Explanation",
        "FlipSet",
        "Influence",
        "Notice",
        "Prediction",
        "RemovalEstimate",
        "ScoredExamples",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from proponent.client import AsyncClient, Client, Retry, Tls
    from proponent.errors import (
        CorruptBundleError,
        DeadlineError,
        InvalidInputError,
        MismatchError,
        NotFoundError,
        OverloadedError,
        PermissionDeniedError,
        ProponentError,
        SpecError,
        UnavailableError,
    )
    from proponent.explainer import Explainer
    from proponent.index.store import Store
    from proponent.options import (
        DeadlinePolicy,
        Diversity,
        Estimator,
        ExampleQuery,
        ExplainIf,
        ExplainOptions,
        Filter,
        Measure,
        OrderBy,
        Ranking,
        Redundancy,
        Side,
        Target,
        View,
    )
    from proponent.rebuild.pipeline import RebuildOptions, rebuild
    from proponent.results import Explanation, FlipSet, Influence, Notice, Prediction, RemovalEstimate, ScoredExamples
    from proponent.spec import ModelSpec, load_spec
    from proponent.text import Text

__all__ = [
    "AsyncClient",
    "Client",
    "CorruptBundleError",
    "DeadlineError",
    "DeadlinePolicy",
    "Diversity",
    "Estimator",
    "ExampleQuery",
    "ExplainIf",
    "ExplainOptions",
    "Explainer",
    "Explanation",
    "Filter",
    "FlipSet",
    "Influence",
    "InvalidInputError",
    "Measure",
    "MismatchError",
    "ModelSpec",
    "NotFoundError",
    "Notice",
    "OrderBy",
    "OverloadedError",
    "PermissionDeniedError",
    "Prediction",
    "ProponentError",
    "Ranking",
    "RebuildOptions",
    "Redundancy",
    "RemovalEstimate",
    "Retry",
    "ScoredExamples",
    "Side",
    "SpecError",
    "Store",
    "Target",
    "Text",
    "Tls",
    "UnavailableError",
    "View",
    "load_spec",
    "rebuild",
]


def __getattr__(name: str) -> Any:
    if name == "rebuild":
        return import_module("proponent.rebuild")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'proponent' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
