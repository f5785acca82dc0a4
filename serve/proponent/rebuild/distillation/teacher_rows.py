"""What one teacher says: its rows of the training set, by the stages of any rebuild, and of the pseudo-queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from proponent.attribution.division import ratio
from proponent.attribution.embedding.distilled import Teacher
from proponent.errors import TrainingMismatchError
from proponent.rebuild.context import RebuildContext, concatenated
from proponent.rebuild.distillation.pseudo_queries import PseudoQueries
from proponent.rebuild.distillation.query_stage import ask
from proponent.rebuild.distillation.teachers import TeacherModel, teacher_classifier
from proponent.rebuild.ekfac import rebuild_ekfac
from proponent.rebuild.survey import cached_survey, check_accuracy

NORMS = ("theta", "l", "directed")
"""||C^-1 g_i||, sqrt(g_i^T C^-1 g_i), and whether there is a direction, [N]."""
ROW_COLUMNS = ("norms", "relative_theta", "self_influence", "directed")
"""Columns of finished rows that they are made of."""


def teacher_rows(
    context: RebuildContext, teacher: TeacherModel, queries: PseudoQueries, key: str, labels: Tensor
) -> Mapping[str, Tensor]:
    """Of a teacher: ``queries`` and ``scales`` of the pseudo-queries, and of each training example its row and norms.

    Its own stages are kept in a workspace inside of the rebuild's until the whole is done. See `ask` for ``key``.

    Raises:
        TrainingMismatchError: It does not classify what it was trained on as ``expected_accuracy`` asks.
    """
    workspace = context.workspace.inside(_name(teacher.number))
    classifier, gradients = teacher_classifier(context.classifier, teacher.file), context.batching.keeps()
    here = replace(context, classifier=classifier, workspace=workspace, gradients=gradients)
    check_teacher(here, teacher, context.classifier.spec.expected_accuracy)
    _, _, shards = rebuild_ekfac(here)
    asked = ask(here, queries, key, labels)
    rows = concatenated([workspace.load(name) for name in shards])
    return {"queries": asked["phi"], "scales": asked["scales"], **norms_of(rows)}


def check_teacher(context: RebuildContext, teacher: TeacherModel, expected: float) -> None:
    """Raises TrainingMismatchError where it does not classify what it was trained on.

    Epochs of half of the examples are half of the steps, so that such a model may fit them less well than the served
    one fits all. It is asked for half of what ``expected`` has above chance, which one that was not trained lacks.
    """
    found = cached_survey(context)
    right = found.predictions == found.labels
    if teacher.positions is not None:
        right, expected = right[teacher.positions], (expected + 1 / len(context.classifier.class_names)) / 2
    try:
        check_accuracy(float(right.double().mean()), expected)
    except TrainingMismatchError as error:
        whom = f"seed {teacher.seed}" + (", on a half" if teacher.positions is not None else "")
        raise TrainingMismatchError(
            f"teacher {teacher.number} ({whom}): {error.message}, or 'training': it does not give "
            "models like the one that is served",
            field="training",
        ) from error


def norms_of(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is wanted of a model's finished rows: themselves where given, and ``NORMS``."""
    found = {
        "norms": rows["norms"],
        "theta": ratio(rows["norms"], rows["relative_theta"]),
        "l": rows["self_influence"].sqrt(),
        "directed": rows["directed"],
    }
    return {**found, "unit": rows["unit"]} if "unit" in rows else found


def remove_workspace(context: RebuildContext, number: int) -> None:
    """Deletes a teacher's own stages, once what is wanted of them is kept."""
    if (context.workspace.directory / _name(number)).exists():
        context.workspace.inside(_name(number)).remove()


def _name(number: int) -> str:
    return f"teacher-{number:05d}"


def as_teacher(kept: Mapping[str, Tensor]) -> Teacher:
    """What was kept of a teacher, as the fit takes it."""
    return Teacher(kept["queries"], kept["unit"].float() * kept["norms"].float()[:, None], kept["scales"])
