"""From teachers to the rows of a bundle: what is fitted, and which numbers are whose.

The order of scores, and their size, are the distilled kernel's: they speak of the recipe. RelatIF divides them by the
models' mean norms. The served model is one of the recipe's models too, and counts as much as each teacher; it costs
nothing. A training example's self-influence and the energy kept are the served model's own. A removal's
second order has no curvature to use and equals the first, as no model's curvature is that of the recipe.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from proponent.attribution.division import positive_or_one, ratio
from proponent.attribution.embedding.distilled import Teacher, TeacherMoment, fit, slope
from proponent.attribution.embedding.subspace import SubspaceEmbedding
from proponent.attribution.gradients.layers import num_parameters
from proponent.index.row_code import RowCode
from proponent.rebuild.context import RebuildContext, concatenated
from proponent.rebuild.distillation.pseudo_queries import PseudoQueries, open_unlabelled
from proponent.rebuild.distillation.query_stage import Asked, ask
from proponent.rebuild.distillation.teacher_rows import (
    NORMS,
    ROW_COLUMNS,
    as_teacher,
    norms_of,
    remove_workspace,
    teacher_rows,
)
from proponent.rebuild.distillation.teachers import Teaching, trained_teachers
from proponent.rebuild.joint_sample import DEFAULT_SIZE
from proponent.rebuild.memory import DOUBLE, too_small
from proponent.rebuild.survey import stored_survey

PSEUDO_SEED = 4
"""Added to the curvature's seed."""
OPERATOR_SIZE = 3 * DEFAULT_SIZE
"""Numbers that the models themselves are asked in: on a CIFAR-10 network a third of them loses an eighth of the
linear datamodeling score (docs/decisions.md)."""
MOST_GROUPS = 16
"""Of training examples, by class, whose rows have bases of their own."""
LEAST_KEPT = 0.9
"""Of the fit; the linear datamodeling score shrinks by about what is missing (docs/decisions.md)."""
_HELD = 4
"""Matrices of N columns that the fit holds together."""


class FewNumbersWarning(UserWarning):
    """A row's numbers hold little of what teachers say."""


@dataclass(frozen=True)
class Distilled:
    """A distilled embedding.

    Attributes:
        shards: Names of its row shards.
        facts: What the manifest says of it.
        code: Of the rows, where they hold fewer numbers than a query.
    """

    embedding: SubspaceEmbedding
    shards: list[str]
    facts: dict[str, object]
    code: RowCode | None


def operator_context(context: RebuildContext) -> RebuildContext:
    """The same for the operators of the models themselves, whose size is not that of the student's rows.

    The second damping stays what it is at the default size: it is in units of a mean over all numbers kept.
    """
    settings, classifier = context.settings, context.classifier
    if not settings.teachers:
        return context
    size = max(settings.embedding_size or 0, OPERATOR_SIZE)
    reached = min(size, len(context.data), num_parameters(context.layers))
    second = settings.second_damping * max(reached / DEFAULT_SIZE, 1.0)
    update = {"embedding_size": size, "second_damping": second}
    spec = classifier.spec.model_copy(update={"curvature": settings.model_copy(update=update)})
    return replace(context, classifier=replace(classifier, spec=spec))


def row_groups(labels: Tensor, classes: int) -> Tensor:
    """The group of each training example, [N] int64: its class, or neighbouring classes together."""
    return labels * min(classes, MOST_GROUPS) // classes


def distil(
    context: RebuildContext, own: SubspaceEmbedding, own_shards: Sequence[str], teaching: Teaching
) -> Distilled:
    """Trains and asks the teachers and fits the student; each finished part is kept.

    Args:
        context: Of the rebuild, as the spec asks for it.
        own: The served model's own embedding.
        own_shards: Its rows.
        teaching: Where teachers are kept.

    Raises:
        SpecError: The memory does not hold the fit, or see `trained_teachers` and `open_unlabelled`.
        TrainingMismatchError: A teacher is worse than ``expected_accuracy`` asks.
    """
    settings, data = context.settings, context.data
    _check_memory(context, own.size)
    teachers = trained_teachers(context.classifier.spec, data, teaching, context.progress)
    unlabelled = open_unlabelled(context.classifier, data)
    queries = PseudoQueries(data, unlabelled, settings.pseudo_queries, settings.seed + PSEUDO_SEED)
    key = queries.digest()
    operators = operator_context(context)
    asked = context.kept(f"pseudo-{key}", f"asked-{key}", lambda: ask(operators, queries, key))
    names = [f"teacher-{key}-{each.number:05d}" for each in teachers]
    for name in context.unfinished("ask teachers", names):
        teacher = teachers[names.index(name)]
        context.workspace.save(name, teacher_rows(operators, teacher, queries, key, asked["labels"]))
        remove_workspace(context, teacher.number)
    models = _Models(context, asked, own_shards, names)
    fitted = context.workspace.cached("student", lambda: _fit(models, queries.origins))
    _warn_of_few_numbers(float(fitted["kept"]), fitted["rows"].shape[1])
    joint = (own.joint.double() @ fitted["queries"].to(own.joint.device)).float()
    facts = {
        "recipe": teachers[0].file.parent.name,
        "seeds": [teachers[0].seed, teachers[-1].seed],
        "halves": sum(each.positions is not None for each in teachers),
        "pseudo_queries": len(queries),
        "unlabelled": queries.given,
        "slope": float(fitted["slope"]),
        "kept": float(fitted["kept"]),
    }
    code = RowCode(fitted["bases"].mT.float(), _groups(context)) if "bases" in fitted else None
    return Distilled(replace(own, joint=joint), _shards(models, fitted["rows"]), facts, code)


def _groups(context: RebuildContext) -> Tensor:
    return row_groups(stored_survey(context.workspace).labels, len(context.classifier.class_names))


def _check_memory(context: RebuildContext, features: int) -> None:
    """Before anything is trained: F^T T, a model's rows and the fit's own matrix, each of N columns, at once."""
    needed = _HELD * DOUBLE * features * len(context.data)
    if needed > context.batching.memory:
        raise too_small(context.batching.memory, needed, f"a fit to teachers of {len(context.data):,} examples")


def _warn_of_few_numbers(kept: float, size: int) -> None:
    if kept < LEAST_KEPT:
        warnings.warn(
            f"the {size} numbers of a row hold {kept:.0%} of what was fitted to the teachers, and scores are worse "
            "by about what is missing: raise curvature.embedding_size, or leave teachers out",
            FewNumbersWarning,
            stacklevel=2,
        )


@dataclass(frozen=True)
class _Models:
    """The served model and its teachers, as far as a rebuild has kept them.

    Attributes:
        asked: The pseudo-queries as the served model embeds them.
        own_shards: Its rows.
        names: Stages of the teachers.
    """

    context: RebuildContext
    asked: Asked
    own_shards: Sequence[str]
    names: Sequence[str]

    def answers(self) -> Iterator[Teacher]:
        """What each says, one after the other: never all of them in memory."""
        load = self.context.workspace.load
        own = concatenated([load(name) for name in self.own_shards])
        yield as_teacher({"queries": self.asked["phi"], "scales": self.asked["scales"], **norms_of(own)})
        yield from (as_teacher(load(name)) for name in self.names)

    def mean_norms(self) -> dict[str, Tensor]:
        """Means of ||C^-1 g_i|| and sqrt(g_i^T C^-1 g_i) over all, [N], and whether any has a direction."""
        load = self.context.workspace.load_some
        own = concatenated([load(name, ROW_COLUMNS) for name in self.own_shards])
        columns = [norms_of(own), *(load(name, NORMS) for name in self.names)]
        theta, root, directed = (torch.stack([each[name] for each in columns]) for name in NORMS)
        return {"theta": theta.mean(dim=0), "l": root.mean(dim=0), "directed": directed.any(dim=0)}


def _fit(models: _Models, origins: Tensor) -> dict[str, Tensor]:
    """``queries`` W, ``rows`` Z in the unit of influence, ``bases`` V if there are some; ``slope`` and ``kept``."""
    with models.context.progress.step("fit student"):
        phi, settings, groups = models.asked["phi"], models.context.settings, _groups(models.context)
        features = phi.double()
        moment = TeacherMoment(features / positive_or_one(features.norm(dim=1))[:, None], origins)
        for answer in models.answers():
            moment.add(answer)
        student = fit(moment, settings.ridge).student(settings.embedding_size or DEFAULT_SIZE, groups)
        factor = slope(student, groups, phi, models.asked["scales"], models.answers())
        unit, kept = torch.tensor([factor, student.kept], dtype=torch.float64)
        found = {"queries": student.queries, "rows": student.rows * factor, "slope": unit, "kept": kept}
        return found if student.bases is None else {**found, "bases": student.bases}


def _shards(models: _Models, rows: Tensor) -> list[str]:
    """Finished rows: the student's vectors and all models' mean norms in place of the served model's own."""
    context = models.context
    sources = dict(zip(context.shards().items(), models.own_shards, strict=True))
    shards = {f"distilled-{name}": (place, source) for (name, place), source in sources.items()}
    norms = models.mean_norms() if any(not context.workspace.has(name) for name in shards) else {}
    for name in context.unfinished("distilled rows", shards):
        place, source = shards[name]
        here = slice(place[0], place[-1] + 1)
        own = context.workspace.load_some(source, ["self_influence", "kept_energy"])
        parts = {key: column[here] for key, column in norms.items()}
        context.workspace.save(name, distilled_rows(rows[here], own, parts))
    return list(shards)


def distilled_rows(rows: Tensor, own: Mapping[str, Tensor], models: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is stored of some rows, see the module; by the names of ``finished_rows``.

    Args:
        rows: Of the student, [n, K] float64.
        own: ``self_influence`` and ``kept_energy`` of the served model, [n].
        models: Of all models: mean ``theta`` and ``l``, and ``directed``, [n].
    """
    norms = rows.norm(dim=1)
    return {
        "unit": (rows / positive_or_one(norms)[:, None]).half(),
        "norms": norms,
        "self_influence": own["self_influence"],
        "relative_theta": ratio(norms, models["theta"]),
        "relative_l": ratio(norms, models["l"]),
        "curvature": torch.zeros_like(norms),
        "directed": models["directed"] & (norms > 0) & (models["theta"] > 0),
        "kept_energy": own["kept_energy"],
    }
