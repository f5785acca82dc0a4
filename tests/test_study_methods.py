"""The study's own mathematics: each against something written independently, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from math import comb, factorial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from proponent.attribution.quadrature import represent
from proponent.attribution.shapley import knn_shapley, truncated_monte_carlo
from proponent.audit.scoring import influence_matrix
from proponent.inspection.inverses import Solver, inverse_of
from proponent.inspection.objective import Objective
from proponent.inspection.solving import norms_by_solving
from proponent.options import Measure
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import Batch
from proponent.results import Influence, MeasureResult
from proponent.study import background
from proponent.study.embeddings import embeddings
from proponent.study.experiments import binary_cnn, figure5, outlier, table1, table2
from proponent.study.experiments.first_order import minimised
from proponent.study.experiments.shapley import ceiling
from proponent.study.listing import strongest
from proponent.study.networks import NEAREST, measured, nearest
from proponent.study.points import OUTLIER, train
from proponent.study.retraining import left_out, losses_after, without
from proponent.study.verdicts import interval
from proponent.study.workbench import Workbench

DOUBLE = torch.float64


def subsets(players: Sequence[int]) -> chain[tuple[int, ...]]:
    return chain.from_iterable(combinations(players, size) for size in range(len(players) + 1))


def shapley(utility: Callable[[Sequence[int]], float], players: int) -> list[float]:
    """By the definition: a weighted sum over all sets of the others."""
    values = []
    for one in range(players):
        others = [player for player in range(players) if player != one]
        values.append(
            sum(
                (utility([*some, one]) - utility(some)) / (players * comb(players - 1, len(some)))
                for some in map(list, subsets(others))
            )
        )
    return values


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_shapley_values_of_neighbours_are_those_of_the_definition(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    similarities = torch.randn(3, 7, generator=generator, dtype=DOUBLE)
    labels, queries = torch.randint(2, (7,), generator=generator), torch.randint(2, (3,), generator=generator)

    def utility(members: Sequence[int]) -> float:
        hits = [
            sum(int(labels[one] == query) for one in sorted(members, key=lambda one: -float(row[one]))[:k]) / k
            for row, query in zip(similarities, queries, strict=True)
        ]
        return sum(hits) / len(hits)

    found = knn_shapley(similarities, labels, queries, k)
    assert found.tolist() == pytest.approx(shapley(utility, 7), abs=1e-12)
    assert float(found.sum()) == pytest.approx(utility(range(7)), abs=1e-12)


def test_monte_carlo_tends_to_the_definition_and_each_order_adds_up() -> None:
    worth = {members: 0.1 * len(members) ** 2 + 0.3 * (2 in members) for members in subsets(range(4))}

    def utility(members: Sequence[int]) -> float:
        return worth[tuple(sorted(members))]

    found = truncated_monte_carlo(utility, 4, 3000)
    assert found.sum(dim=1).tolist() == pytest.approx([utility(range(4)) - utility(())] * 3000)
    assert found.mean(dim=0).tolist() == pytest.approx(shapley(utility, 4), abs=0.02)
    assert len({tuple(order.argsort().tolist()) for order in found}) > factorial(4) / 2


def test_an_order_is_cut_off_near_the_utility_of_all() -> None:
    asked: list[int] = []

    def utility(members: Sequence[int]) -> float:
        asked.append(len(members))
        return min(1.0, 0.5 * len(members))

    found = truncated_monte_carlo(utility, 6, 1, tolerance=0.1)
    assert max(asked[2:]) == 2
    assert sorted(found[0].tolist()) == [0, 0, 0, 0, 0.5, 0.5]


def explained(rows: Tensor, mean: Tensor, chosen: Sequence[int]) -> float:
    """``z^T K^+ z``, by the kernel."""
    kernel = (rows @ rows.mT)[list(chosen)][:, list(chosen)]
    z = rows[list(chosen)] @ mean
    return float(z @ torch.linalg.pinv(kernel, hermitian=True) @ z)


def test_quadrature_takes_what_explains_most_at_each_step() -> None:
    generator = torch.Generator().manual_seed(1)
    rows, mean = (torch.randn(*shape, generator=generator, dtype=DOUBLE) for shape in ((12, 6), (6,)))
    rows[5] = 2 * rows[3]  # adds nothing once the other is chosen
    chosen, shares = represent(rows, mean, 5)
    for size, share in enumerate(shares, start=1):
        best = max(explained(rows, mean, [*chosen[: size - 1], one]) for one in range(12))
        assert explained(rows, mean, chosen[:size]) == pytest.approx(best, rel=1e-9)
        assert share == pytest.approx(best / float(mean.square().sum()), rel=1e-9)


def test_quadrature_ends_where_nothing_can_be_added() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert represent(rows, torch.tensor([2.0, 0.0, 0.0]), 3)[1] == pytest.approx([1.0])
    assert represent(rows, torch.tensor([0.0, 1.0, 0.0]), 3) == ([], [])


def test_unions_of_the_strongest_by_size_and_by_sign() -> None:
    scores = torch.tensor([[1.0, -3.0, 2.0], [5.0, -1.0, 0.0], [0.5, -4.0, 0.25]])
    assert table1.strongest(scores, "|I|") == [0, 1]
    assert table1.strongest(scores, "I > 0") == [0, 2]
    assert table1.strongest(scores, "I < 0") == [1]


def test_as_many_points_are_the_strongest_of_each_query_and_then_the_second() -> None:
    scores = torch.tensor([[5.0, -4.0, 1.0, 0.0], [-3.0, 1.0, 2.0, 0.5]], dtype=DOUBLE)
    found = [table1.strongest_of_all(scores, count) for count in (1, 2, 3, 4)]
    assert found == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_the_loss_with_the_softmax_taken_twice_never_falls_below_that_of_certainty() -> None:
    outputs, labels = torch.tensor([[100.0, *[0.0] * 9], [0.0] * 10], dtype=DOUBLE), torch.tensor([0, 0])
    found = table1.losses_of(outputs, labels, [1])
    least = np.log(np.e + 9) - 1
    assert found["twice"] == pytest.approx((least + np.log(10)) / 2)
    assert least == pytest.approx(1.461, abs=1e-3)
    assert found["chosen"] == pytest.approx(np.log(10)) and found["loss"] == pytest.approx(np.log(10) / 2)


def test_examples_removed_are_not_in_the_batch() -> None:
    batch = Batch(torch.arange(5.0)[:, None], torch.arange(5), torch.arange(5))
    assert without(batch, [0, 3]).labels.tolist() == [1, 2, 4]


def test_an_example_left_out_weighs_nothing_and_the_others_what_they_did(points: outlier.AuditContext) -> None:
    """By L-BFGS, where leaving out is the removal of weight -1/n that another minimisation tells."""
    batch = points.data.batch(range(len(points.data)))
    assert left_out(batch, [7]).labels.tolist()[6:9] == [int(batch.labels[6]), -100, int(batch.labels[8])]
    found = losses_after(points, left_out(batch, [7]), 4, seed=0)
    assert found == pytest.approx(minimised(points, range(4), 7, -1.0), abs=1e-5)
    assert found != pytest.approx(losses_after(points, batch, 4, seed=0), abs=1e-4)


def test_nearer_examples_are_those_of_the_label_by_their_inputs(points: outlier.AuditContext) -> None:
    lists, data = strongest(points, range(3)), train(seed=0)
    asked = points.held_out.batch(range(3))
    found = figure5.nearer(points, lists, "RelatIF")
    wanted = []
    for of, query, label in zip(lists, asked.inputs.numpy(), asked.labels.tolist(), strict=True):
        away = np.linalg.norm(data.coordinates.numpy() - query, axis=1)
        own = [int(each.example_id[-4:]) for each in of["RelatIF"] if each.class_id == label]
        if own:
            wanted.append(away[data.labels.numpy() == label].mean() - away[own].mean())
    assert found == pytest.approx(wanted, abs=1e-5) and found


def test_intervals_are_students() -> None:
    values = [0.1, 0.4, 0.2, 0.5, 0.3]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    mean, half = interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=3e-3)


def test_examples_of_other_labels_are_opponents_where_their_score_is_negative() -> None:
    def listed(class_id: int, score: float) -> Influence:
        return Influence("one", score, 1, class_id, "label", class_id, 1.0)

    lists = [{"IF": [listed(3, 1.0), listed(5, -2.0)]}, {"IF": [listed(8, 1.0), listed(3, 0.5), listed(1, -0.1)]}]
    assert figure5.opponents_of_other_labels(lists, [3, 8], "IF") == pytest.approx(2 / 3)
    assert figure5.opponents_of_other_labels([{"IF": [listed(3, 1.0)]}], [3], "IF") == 1


def test_answers_are_compared_by_the_examples_that_both_name() -> None:
    def answer(proponents: dict[str, float], opponents: dict[str, float]) -> SimpleNamespace:
        ends = [
            [Influence(name, score, 1, 0, "l", 0, 1.0) for name, score in of.items()]
            for of in (proponents, opponents)
        ]
        return SimpleNamespace(results=[MeasureResult(Measure.INFLUENCE, *ends)])

    known, found = answer({"a": 3.0, "b": 2.0}, {"c": -4.0}), answer({"a": 3.0, "x": 2.0}, {"c": -1.0, "y": -1.0})
    assert table2.overlap(found, known) == 0.5
    assert table2.error(found, known) == pytest.approx(3 / 5)
    assert table2.error(known, known) == 0


def test_the_ceiling_of_a_mean_of_two_halves() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=20_000)
    first, second = truth + generator.normal(size=(2, 20_000))
    found = ceiling(float(np.corrcoef(first, second)[0, 1]))
    assert found == pytest.approx(np.corrcoef(truth, first + second)[0, 1], abs=0.01)
    assert ceiling(-0.2) == 0


def test_painting_turns_white_to_grey_and_others_to_white_where_it_paints() -> None:
    white, dark = np.full((30, 30, 3), 255, np.uint8), np.zeros((30, 30, 3), np.uint8)
    assert background.white_corners(white) and not background.white_corners(dark)
    white[0, 29] = 0
    assert not background.white_corners(white)
    corners, frame = (background.painted(dark, places) for places in (background.CORNERS, background.FRAME))
    assert background.white_corners(corners) and int((corners > 0).sum()) == 4 * 9 * 3
    assert background.white_corners(frame) and int((frame > 0).sum()) == (30**2 - 24**2) * 3
    assert not background.white_corners(background.painted(corners, background.CORNERS))
    assert background.brightness(dark) == 0 and background.brightness(corners) == 255


def test_greying_changes_white_pixels_alone() -> None:
    image = np.array([[[255, 255, 255], [255, 255, 0]], [[241, 250, 245], [240, 255, 255]]], np.uint8)
    changed = background.greyed(image)
    assert (
        changed.tolist() == [[[127] * 3, [255, 255, 0]], [[127] * 3, [240, 255, 255]]] and changed.dtype == np.uint8
    )


def test_lists_overlap_by_the_share_of_the_first() -> None:
    assert binary_cnn.overlaps([["a", "b"], ["c"], []], [["b", "x"], ["c"], ["d"]]) == [0.5, 1.0, 0.0]


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> outlier.AuditContext:
    root = tmp_path_factory.mktemp("points")
    bench = Workbench(root, root, code="c0de", quick=True, data_root=None, progress=StageProgress(quiet=True))
    return outlier.cloud(bench, 0)


def hessian_and_gradients(context: outlier.AuditContext) -> tuple[np.ndarray, np.ndarray]:
    """Of softmax regression on the plane with weight decay 0.01, parameters in the model's order."""
    model = context.explainer.classifier.model
    weights = torch.cat([p.detach().double().flatten() for p in model.parameters()]).numpy()
    data = train(seed=0)
    features = np.c_[data.coordinates.double().numpy(), np.ones(len(data))]
    theta = np.c_[weights[:4].reshape(2, 2), weights[4:]]
    p = np.exp(features @ theta.T)
    p /= p.sum(axis=1, keepdims=True)
    gradients = np.einsum("nc,nf->ncf", p - np.eye(2)[data.labels.numpy()], features).reshape(len(data), 6)
    middle = np.einsum("nc,cd->ncd", p, np.eye(2)) - np.einsum("nc,nd->ncd", p, p)
    hessian = np.einsum("ncd,nf,ng->cfdg", middle, features, features).reshape(6, 6) / len(data)
    order = [0, 1, 3, 4, 2, 5]  # weights first, as the model has them
    return (hessian + 0.01 * np.eye(6))[np.ix_(order, order)], gradients[:, order]


def test_the_change_of_parameters_is_that_of_the_dense_hessian(points: outlier.AuditContext) -> None:
    hessian, gradients = hessian_and_gradients(points)
    moved = np.linalg.solve(hessian, gradients.T).T
    found = outlier.change_of_parameters(points, 0)
    length = found.square().sum(dim=1).sqrt().numpy()
    assert length == pytest.approx(np.linalg.norm(moved, axis=1), rel=2e-3)
    assert length.argmax() == OUTLIER
    batch = points.held_out.batch([0])
    p = points.explainer.classifier.model(batch.inputs).softmax(dim=1).detach().double().numpy()[0]
    error = p - np.eye(2)[int(batch.labels[0])]
    asked = np.r_[np.outer(error, batch.inputs.double().numpy()[0]).ravel(), error]
    along = moved @ asked / np.linalg.norm(asked)
    assert found[:, 0].numpy() == pytest.approx(along, rel=5e-3, abs=5e-3)


@pytest.mark.parametrize(("solver", "within"), [("cg", 1e-3), ("arnoldi", 1e-3), ("lissa", 0.03)])
def test_the_norms_solved_for_are_those_of_the_dense_hessian(
    points: outlier.AuditContext, solver: str, within: float
) -> None:
    hessian, gradients = hessian_and_gradients(points)
    right = gradients[[0, 5, 9]].T
    moved = np.linalg.solve(hessian + 0.05 * np.eye(6), right)
    classifier = points.explainer.classifier
    objective = Objective(classifier, classifier.find_layers(), points.data)
    found = norms_by_solving(inverse_of(objective, Solver(solver), 0.05), [0, 5, 9])
    wanted = {
        Measure.THETA_RELATIF: np.linalg.norm(moved, axis=0),
        Measure.L_RELATIF: np.sqrt((moved * right).sum(axis=0)),
    }
    for measure, norms in found.by_measure.items():
        assert norms.tolist() == pytest.approx(wanted[measure].tolist(), rel=within)
    assert found.residual < 10 * within


def test_the_outlier_leads_influence_and_not_relatif(points: outlier.AuditContext) -> None:
    found = outlier.measured(points)
    assert found["IF"]["outlier"] > 0.5 > found["theta-RelatIF"]["outlier"]
    assert found["theta-RelatIF"]["distance"] < found["IF"]["distance"]


def test_neighbours_are_the_nearest_by_their_inputs(points: outlier.AuditContext) -> None:
    train_inputs, asked = train(seed=0).coordinates.numpy(), points.held_out.batch([0, 5]).inputs.numpy()
    for found, query in zip(nearest(points, [0, 5]), asked, strict=True):
        order = np.linalg.norm(train_inputs - query, axis=1).argsort()[:NEAREST]
        assert found == {f"points-0-{place:04d}" for place in order}


def test_lists_are_counted_test_point_by_test_point(points: outlier.AuditContext) -> None:
    found = measured(points, 4)
    lists, near = strongest(points, range(4)), nearest(points, range(4))
    for name, of in found.items():
        ids = [[each.example_id for each in listed[name]] for listed in lists]
        inside = [sum(one in names for one in own) / len(own) for own, names in zip(ids, near, strict=True)]
        assert of["neighbour"] == pytest.approx(inside)
        assert of["different"] == len({one for own in ids for one in own}) / sum(map(len, ids))
        labels = [points.held_out.item(place)[2] for place in range(4)]
        alike = [np.mean([e.class_id == own for e in each[name]]) for each, own in zip(lists, labels, strict=True)]
        assert of["label"] == pytest.approx(alike)


def test_one_product_gives_the_scores_of_both_measures(points: outlier.AuditContext) -> None:
    found = table1.scores_by_measure(points, [3, 4])
    for name, kind in table1.MEASURES.items():
        assert torch.allclose(found[name], influence_matrix(points, [3, 4], kind), rtol=1e-9)


def test_embeddings_multiply_to_influence(points: outlier.AuditContext) -> None:
    rows, asked = embeddings(points, [0, 3])
    assert torch.allclose(asked @ rows.mT, influence_matrix(points, [0, 3]), rtol=2e-3, atol=1e-6)


def test_a_weight_of_minus_one_is_a_removal(points: outlier.AuditContext) -> None:
    """The objective without a point, by Newton's method in numpy."""
    data, removed = train(seed=0), 7
    kept = np.delete(np.arange(len(data)), removed)
    features = np.c_[data.coordinates.double().numpy(), np.ones(len(data))]
    theta = np.zeros((2, 3))
    for _ in range(50):
        p = np.exp(features @ theta.T)
        p /= p.sum(axis=1, keepdims=True)
        error = (p - np.eye(2)[data.labels.numpy()])[kept]
        gradient = np.einsum("nc,nf->cf", error, features[kept]).ravel() / len(data) + 0.01 * theta.ravel()
        middle = (np.einsum("nc,cd->ncd", p, np.eye(2)) - np.einsum("nc,nd->ncd", p, p))[kept]
        hessian = np.einsum("ncd,nf,ng->cfdg", middle, features[kept], features[kept]).reshape(6, 6) / len(data)
        theta -= np.linalg.solve(hessian + 0.01 * np.eye(6), gradient).reshape(2, 3)
    asked = points.held_out.batch(range(4))
    logits = np.c_[asked.inputs.double().numpy(), np.ones(4)] @ theta.T
    wanted = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), asked.labels.numpy()]
    assert minimised(points, range(4), removed, -1.0) == pytest.approx(wanted.tolist(), abs=1e-6)
