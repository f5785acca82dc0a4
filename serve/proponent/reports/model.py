"""The model in a report: what its manifest knows, and what audits measured, drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from proponent.display.audit_plots import datamodeling_plot, leave_one_out_plot, recovery_plot, sweep_plot
from proponent.display.figures import count, counted, date, figure, percent
from proponent.display.sentences import damping, trust
from proponent.index.audit_file import known_audit
from proponent.index.bundle import Manifest, read_manifest


@dataclass(frozen=True)
class ModelView:
    """What a page says of a model.

    Attributes:
        facts: Of its manifest, term and text.
        trust: How far its answers can be trusted, in sentences.
        figures: Of the audit, by dotted name.
    """

    facts: list[tuple[str, str]]
    trust: list[str]
    plots: list[Plot]
    figures: list[tuple[str, str]]


@dataclass(frozen=True)
class Plot:
    """A plot, and what a reader sees in it."""

    title: str
    drawing: Markup
    caption: str


def model_view(bundle: Path) -> ModelView:
    """The model of a bundle, and all that audits measured of it."""
    manifest = read_manifest(bundle)
    audit = known_audit(bundle, manifest)
    said = trust(manifest.curvature, manifest.kept_energy, audit)
    return ModelView(list(_facts(manifest)), said, _plots(manifest, audit), list(_flat("", audit)))


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "Model", manifest.model
    yield "Bundle", manifest.digest
    yield "Built", date(manifest.created)
    yield "Classes", ", ".join(manifest.class_names)
    yield "Training examples", count(manifest.train_size)
    yield "Training accuracy", percent(manifest.train_accuracy)
    yield "Loss", f"{manifest.loss}, weight decay {figure(manifest.weight_decay)}"
    yield "Input", _input(manifest)
    yield "Curvature", f"{manifest.curvature}. {damping(manifest.damping, manifest.damping_relative)}"
    yield "Embedding", _embedding(manifest)
    if manifest.uncovered:
        yield "Not explained", _left_out(manifest.uncovered, manifest.uncovered_share, "trained")
    if manifest.left_out:
        yield "Why not", "; ".join(f"{name}: {why}" for name, why in manifest.left_out.items())
    if manifest.frozen:
        yield "Frozen", _left_out(manifest.frozen, manifest.frozen_share, "all")
    if manifest.omitted_rows:
        yield "Without a direction", f"{counted(manifest.omitted_rows, 'example')}, left out of both RelatIF measures"
    if manifest.forgotten_rows:
        yield "Forgotten", f"{counted(manifest.forgotten_rows, 'example')} removed since the model was trained"
    yield "Weights", manifest.weights_sha256


def _input(manifest: Manifest) -> str:
    shape = " × ".join(map(str, manifest.input_shape))
    size = " × ".join(map(str, manifest.image_size))
    return f"{shape} numbers" + (f"; images of {size} pixels, mode {manifest.image_mode}" if size else "")


def _embedding(manifest: Manifest) -> str:
    kept = percent(manifest.kept_energy)
    return f"{counted(manifest.embedding_size, 'number')} for each training example; they keep {kept} of the energy"


def _left_out(names: Mapping[str, int], share: float, of: str) -> str:
    return f"{percent(share)} of {of} parameters: {', '.join(sorted(names))}"


def _plots(manifest: Manifest, audit: Mapping[str, Any]) -> list[Plot]:
    """One for each check whose points were kept."""
    wanted = (("lds", "per_query"), ("leave_one_out", "points"), ("label_noise", "recovery"), ("tuning", "trials"))
    drawn = {check: audit[check] for check, points in wanted if points in audit.get(check, {})}
    return [_DRAWN[check](manifest, found) for check, found in drawn.items()]


def _datamodeling(_: Manifest, found: Mapping[str, Any]) -> Plot:
    models, queries = counted(found["subsets"], "model"), counted(found["queries"], "held-out input")
    caption = (
        f"{models} were retrained on random halves of the training set. For each of {queries}, the summed scores of "
        "a half should rank the losses of these models: at 1 they do so perfectly, at 0 they say nothing."
    )
    return Plot("Do the scores predict retraining? (linear datamodeling score)", datamodeling_plot(found), caption)


def _leave_one_out(_: Manifest, found: Mapping[str, Any]) -> Plot:
    low, high = found["slope_interval_95"]
    caption = (
        f"{counted(found['removals'], 'example')} were left out one at a time, and the model retrained each time. "
        f"Points on the line of equality are predicted exactly. Correlation {figure(found['correlation'], 4)}, slope "
        f"{figure(found['slope'])} (95\xa0% interval {figure(low)} to {figure(high)})."
    )
    return Plot("Is one example's removal predicted?", leave_one_out_plot(found), caption)


def _recovery(_: Manifest, found: Mapping[str, Any]) -> Plot:
    low, high = found["interval_95"]
    caption = (
        f"{counted(found['flipped'], 'label')} were flipped and the model retrained. Reading the examples with the "
        f"highest self-influence first finds them as drawn: AUC {figure(found['auc'])} (95\xa0% interval "
        f"{figure(low)} to {figure(high)}; 0.5 is a random order)."
    )
    return Plot("Does self-influence find wrong labels?", recovery_plot(found), caption)


def _sweep(manifest: Manifest, found: Mapping[str, Any]) -> Plot:
    second = float(manifest.settings.get("second_damping", 1.0))
    drawing = sweep_plot(found, manifest.damping, second, manifest.embedding_size)
    return Plot("How was damping chosen?", drawing, f"{found['reason'].capitalize()}.")


_DRAWN: Mapping[str, Callable[[Manifest, Mapping[str, Any]], Plot]] = {
    "lds": _datamodeling,
    "leave_one_out": _leave_one_out,
    "label_noise": _recovery,
    "tuning": _sweep,
}


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures of an audit, without the points of its plots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        elif not isinstance(value, list):
            yield f"{prefix}{name}", figure(value, 4) if isinstance(value, float) else str(value)
        elif name.endswith("interval_95"):
            yield f"{prefix}{name}", " to ".join(figure(end, 4) for end in value)
