"""A loaded bundle answers with the influences of a dense float64 Hessian, query by query, and tells what it omits."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import oracle
import tiny
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.losses import get_loss
from proponent.bounds.cancellation import always
from proponent.errors import CorruptBundleError, DeadlineError, InvalidInputError, MismatchError, NotFoundError
from proponent.explainer import Explainer
from proponent.explainer.triage import is_worth_explaining
from proponent.index.bundle import FILES
from proponent.index.store import Store
from proponent.options import Diversity, ExplainIf, ExplainOptions, Filter, Measure, Ranking, Target, View
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.results import Explanation, Influence, Notice, NoticeCode, Prediction
from proponent.spec import load_spec

COUNT = 40
WEIGHT_DECAY = 0.01
PROMISED = 1e-3
"""Error of a score in units of ||phi_test|| ||phi_i||."""


def build(path: Path, store: Path) -> Path:
    return rebuild(load_spec(path), Store(store), RebuildOptions(quiet=True))


def silently(path: Path, store: Path) -> Path:
    """A rebuild whose warnings are not what the test is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return build(path, store)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exact")
    return build(tiny.project(root, count=COUNT), root / "store")


@pytest.fixture(scope="module")
def explainer(bundle: Path) -> Explainer:
    return Explainer.load(bundle)


@pytest.fixture(scope="module")
def uncovered(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    root = tmp_path_factory.mktemp("uncovered")
    path = tiny.project(root, model="normed", curvature={"kind": "ekfac"}, expected_accuracy=0)
    return Explainer.load(silently(path, root / "store"))


@pytest.fixture(scope="module")
def confident(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    """Weights so large that some training rows, and some queries, have no direction."""
    root = tmp_path_factory.mktemp("confident")
    path = tiny.project(root, expected_accuracy=0)
    weights = load_file(root / "weights.safetensors")
    save_file({name: value * 21 for name, value in weights.items()}, root / "weights.safetensors")
    return Explainer.load(silently(path, root / "store"))


def one(explainer: Explainer, value: Tensor, **options: Any) -> Explanation:
    [answer] = explainer.explain([value], [ExplainOptions(**options)])
    assert isinstance(answer, Explanation)
    return answer


def row(influence: Influence) -> int:
    return int(influence.example_id.removeprefix("toy/"))


def shown(answer: Explanation, measure: Measure) -> dict[int, float]:
    """Scores by row, both ends."""
    [result] = [result for result in answer.results if result.measure is measure]
    return {row(i): i.score for i in [*result.proponents, *result.opponents]}


def codes(answer: Explanation) -> dict[NoticeCode, Notice]:
    return {notice.code: notice for notice in answer.notices}


@dataclass(frozen=True)
class Truth:
    """Influences of each query on its loss at a label, by dense float64 linear algebra."""

    model: nn.Module
    entries: list[Any]
    hessian: Tensor
    gradients: Tensor

    @classmethod
    def of(cls, bundle: Path) -> Truth:
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
        model.load_state_dict({k: v.double() for k, v in load_file(bundle / "model.safetensors").items()})
        images, labels = tiny.pictures(COUNT)
        inputs, per_example = images[:, None].double() / 255, get_loss("cross_entropy").per_example
        entries = oracle.order(model, {"1": 1})
        hessian = oracle.objective_hessian(model, per_example, inputs, labels, entries, WEIGHT_DECAY)
        gradients = oracle.flat(oracle.per_example_gradients(model, per_example, inputs, labels), entries)
        return cls(model, entries, hessian, gradients)

    def gradient(self, value: Tensor, label: int) -> Tensor:
        per_example = get_loss("cross_entropy").per_example
        named = oracle.per_example_gradients(self.model, per_example, value[None].double(), torch.tensor([label]))
        return oracle.flat(named, self.entries)[0]

    def scores(self, gradient: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
        """Scores of all rows, and what an error of each is measured in."""
        solved = torch.linalg.solve(self.hessian, self.gradients.T)
        norms = (self.gradients * solved.T).sum(1).sqrt()
        scale = {
            Measure.INFLUENCE: torch.ones_like(norms),
            Measure.THETA_RELATIF: 1 / solved.norm(dim=0),
            Measure.L_RELATIF: 1 / norms,
        }[measure]
        length = (gradient @ torch.linalg.solve(self.hessian, gradient)).sqrt()
        return gradient @ solved * scale, length * norms * scale


@pytest.fixture(scope="module")
def truth(bundle: Path) -> Truth:
    return Truth.of(bundle)


def check(found: dict[int, float], exact: Tensor, unit: Tensor) -> None:
    """Every row is there (but for those whose score is zero) and its score is right."""
    assert len(found) == COUNT
    scores = torch.tensor([found[i] for i in range(COUNT)], dtype=torch.float64)
    assert float(((scores - exact).abs() / unit).max()) <= PROMISED


@pytest.mark.parametrize("measure", Measure)
def test_scores_are_those_of_the_dense_hessian(explainer: Explainer, truth: Truth, measure: Measure) -> None:
    for value in tiny.inputs(4):
        answer = one(explainer, value, top_k=COUNT, measures=(measure,))
        predicted = int(truth.model(value[None].double()).argmax())
        assert answer.target_class_id == answer.prediction.class_id == predicted
        check(shown(answer, measure), *truth.scores(truth.gradient(value, predicted), measure))


@pytest.mark.parametrize("label", [0, 1, 2])
def test_another_label_can_be_explained(explainer: Explainer, truth: Truth, label: int) -> None:
    [value] = tiny.inputs(1)
    answer = one(explainer, value, top_k=COUNT, target=Target(label))
    assert answer.target_class_id == label
    for measure in Measure:
        check(shown(answer, measure), *truth.scores(truth.gradient(value, label), measure))


def test_a_contrast_explains_the_difference_of_two_losses(explainer: Explainer, truth: Truth) -> None:
    [value] = tiny.inputs(1)
    answer = one(explainer, value, top_k=COUNT, target=Target(2, 0))
    assert (answer.target_class_id, answer.against_class_id) == (2, 0)
    gradient = truth.gradient(value, 2) - truth.gradient(value, 0)
    for measure in Measure:
        check(shown(answer, measure), *truth.scores(gradient, measure))


def test_lists_are_sorted_ranked_and_signed(explainer: Explainer) -> None:
    for result in one(explainer, tiny.inputs(1)[0], top_k=COUNT).results:
        for end, sign in ((result.proponents, 1), (result.opponents, -1)):
            scores = [sign * influence.score for influence in end]
            assert scores == sorted(scores, reverse=True) and min(scores) > 0
            assert [influence.rank for influence in end] == list(range(1, len(end) + 1))


@pytest.mark.parametrize("measure", Measure)
@pytest.mark.parametrize("top_k", [1, 7, 2 * COUNT])
def test_ranked_by_magnitude_both_ends_are_one_list(explainer: Explainer, measure: Measure, top_k: int) -> None:
    [value] = tiny.inputs(1)
    found = one(explainer, value, measures=(measure,), top_k=top_k, ranking=Ranking.BY_MAGNITUDE)
    everything = one(explainer, value, measures=(measure,), top_k=COUNT)
    [result], [ends] = found.results, everything.results
    expected = sorted((*ends.proponents, *ends.opponents), key=lambda each: -abs(each.score))[:top_k]
    assert [each.example_id for each in result.merged] == [each.example_id for each in expected]
    assert [each.score for each in result.merged] == [each.score for each in expected]
    assert [each.rank for each in result.merged] == list(range(1, len(expected) + 1))
    assert all(each.score > 0 for each in result.proponents) and all(each.score < 0 for each in result.opponents)


def test_a_diverse_selection_ranked_by_magnitude_is_that_querys_error_alone(explainer: Explainer) -> None:
    both = ExplainOptions(diversity=Diversity(), ranking=Ranking.BY_MAGNITUDE)
    error, answer = explainer.explain(list(tiny.inputs(2)), [both, ExplainOptions()])
    assert isinstance(error, InvalidInputError) and error.field == "ranking" and "ask for one of them" in str(error)
    assert isinstance(answer, Explanation)


def test_training_images_argue_for_their_own_label(explainer: Explainer) -> None:
    """The sign, end to end: the image itself, at its label, is the strongest proponent but for RelatIF's others."""
    images, labels = tiny.pictures(COUNT)
    for position in range(0, COUNT, 7):
        target = Target(int(labels[position]))
        answer = one(explainer, images[position][None].float() / 255, top_k=1, target=target)
        assert row(answer.results[2].proponents[0]) == position


def test_measures_come_in_one_order_whatever_the_order_asked(explainer: Explainer) -> None:
    [value] = tiny.inputs(1)
    asked = (Measure.L_RELATIF, Measure.INFLUENCE, Measure.L_RELATIF)
    assert [r.measure for r in one(explainer, value, measures=asked).results] == [
        Measure.INFLUENCE,
        Measure.L_RELATIF,
    ]


def test_a_batch_of_unlike_queries_answers_each_as_if_alone(explainer: Explainer) -> None:
    values = tiny.inputs(6)
    options = [
        ExplainOptions(),
        ExplainOptions(measures=(Measure.THETA_RELATIF,), top_k=3),
        ExplainOptions(target=Target(1)),
        ExplainOptions(target=Target(2, 1), top_k=99),
        ExplainOptions(filter=Filter(allow=frozenset({1}))),
        ExplainOptions(target=Target(7)),
    ]
    together = explainer.explain(values, options)
    for value, option, found in zip(values, options, together, strict=True):
        [alone] = explainer.explain([value], [option])
        if isinstance(found, InvalidInputError):
            assert isinstance(alone, InvalidInputError) and alone.message == found.message
            continue
        assert isinstance(found, Explanation) and isinstance(alone, Explanation)
        assert found.prediction.class_id == alone.prediction.class_id
        assert found.notices == alone.notices
        for one_result, other in zip(found.results, alone.results, strict=True):
            for end, expected in ((one_result.proponents, other.proponents), (one_result.opponents, other.opponents)):
                assert [i.example_id for i in end] == [i.example_id for i in expected]
                assert [i.score for i in end] == pytest.approx([i.score for i in expected], rel=1e-4)


def test_only_what_is_worth_it_is_explained(explainer: Explainer) -> None:
    values = tiny.inputs(12)
    sure = [max(p.probabilities) for p in explainer.predict(values) if isinstance(p, Prediction)]
    middle = sorted(sure)[6]
    conditions = [ExplainIf(confidence_below=middle)] * 10 + [None, ExplainIf()]
    found = explainer.explain(values, [ExplainOptions(explain_if=condition) for condition in conditions])
    alone = [one(explainer, value) for value in values]
    expected = [p < middle for p in sure[:10]] + [True, False]
    assert len(set(expected[:10])) == 2
    for answer, full, explained in zip(found, alone, expected, strict=True):
        assert isinstance(answer, Explanation)
        assert answer.prediction.class_id == full.prediction.class_id
        assert (answer.bundle_digest, answer.quality) == (full.bundle_digest, full.quality)
        assert (NoticeCode.EXPLANATION_SKIPPED in codes(answer)) is not explained
        ids = [[i.example_id for i in result.proponents] for result in full.results]
        assert [[i.example_id for i in result.proponents] for result in answer.results] == (ids if explained else [])


def test_what_is_not_explained_takes_no_gradient(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gradient(*_: Any) -> None:
        raise AssertionError("a gradient was taken")

    monkeypatch.setattr(CaptureSession, "backward", no_gradient)
    options = ExplainOptions(explain_if=ExplainIf(sampled_share=0.0), target=Target(2))
    [answer] = explainer.explain(tiny.inputs(1), [options])
    assert isinstance(answer, Explanation) and answer.target_class_id == 2
    [refused] = explainer.explain(tiny.inputs(1), [replace(options, target=Target(7))])
    assert isinstance(refused, InvalidInputError)


@pytest.mark.parametrize(
    ("asked", "draw", "worth"),
    [
        (ExplainIf(), 0.0, False),
        (ExplainIf(confidence_below=0.7), 0.0, False),
        (ExplainIf(confidence_below=0.71), 0.0, True),
        (ExplainIf(sampled_share=0.25), 0.2, True),
        (ExplainIf(sampled_share=0.25), 0.25, False),
        (ExplainIf(sampled_share=1.0), 0.999, True),
        (ExplainIf(confidence_below=0.5, sampled_share=0.25), 0.1, True),
    ],
)
def test_any_condition_suffices(asked: ExplainIf, draw: float, worth: bool) -> None:
    assert is_worth_explaining(Prediction(1, "b", [0.3, 0.7]), asked, lambda: draw) is worth


def test_an_input_whose_caller_left_during_the_forward_gets_no_gradient(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[Tensor] = []
    backward = CaptureSession.backward
    monkeypatch.setattr(CaptureSession, "backward", lambda self, seed: (seeds.append(seed), backward(self, seed))[1])

    def left() -> None:
        raise DeadlineError("the caller left before the answer was ready", reason="CALL_ABANDONED")

    values, options = tiny.inputs(3), [ExplainOptions()] * 3
    found = explainer.explain(values, options, [always, left, always])
    assert isinstance(found[1], DeadlineError)
    assert [bool(row.any()) for row in seeds[0]] == [True, False, True]
    expected = [one(explainer, values[0]), one(explainer, values[2])]
    assert [shown(a, Measure.INFLUENCE).keys() for a in (found[0], found[2]) if isinstance(a, Explanation)] == [
        shown(a, Measure.INFLUENCE).keys() for a in expected
    ]


def test_predictions_are_the_models(explainer: Explainer, truth: Truth) -> None:
    values = tiny.inputs(5)
    found = explainer.predict(values)
    expected = truth.model(torch.stack(values).double()).softmax(1)
    for prediction, probabilities, value in zip(found, expected, values, strict=True):
        assert isinstance(prediction, Prediction)
        assert prediction.class_id == int(probabilities.argmax())
        assert prediction.label == tiny.CLASSES[prediction.class_id]
        assert prediction.probabilities == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-12)
        assert one(explainer, value).prediction.probabilities == pytest.approx(prediction.probabilities, abs=1e-7)


@pytest.mark.parametrize(
    ("chosen", "allowed"),
    [
        (Filter(allow=frozenset({1})), lambda i: i % 3 == 1),
        (Filter(allow=frozenset({0, 2}), deny=frozenset({2})), lambda i: i % 3 == 0),
        (Filter(deny=frozenset({0, 99})), lambda i: i % 3 != 0),
        (Filter(exclude=("toy/4", "toy/0", "unknown")), lambda i: i not in (0, 4)),
        (Filter(allow=frozenset({99})), lambda i: False),
        (Filter(exclude=tuple(f"toy/{i}" for i in range(COUNT))), lambda i: False),
    ],
)
def test_filters_leave_out_rows_and_change_no_score(explainer: Explainer, chosen: Filter, allowed: Any) -> None:
    [value] = tiny.inputs(1)
    whole = one(explainer, value, top_k=COUNT)
    answer = one(explainer, value, top_k=COUNT, filter=chosen)
    for measure in Measure:
        expected = {i: score for i, score in shown(whole, measure).items() if allowed(i)}
        assert shown(answer, measure) == expected
    if len(expected) < COUNT:
        assert codes(answer)[NoticeCode.K_CAPPED].count == len(expected)


def test_asking_for_more_than_there_are_is_noticed(explainer: Explainer) -> None:
    [value] = tiny.inputs(1)
    assert codes(one(explainer, value, top_k=COUNT)) == {}
    notice = codes(one(explainer, value, top_k=COUNT + 1))[NoticeCode.K_CAPPED]
    assert (notice.count, str(COUNT + 1) in notice.message) == (COUNT, True)
    assert set(codes(one(explainer, value, top_k=2**60))) == {NoticeCode.K_CAPPED}


def test_layers_left_out_are_noticed_with_their_share(uncovered: Explainer) -> None:
    notice = codes(one(uncovered, tiny.inputs(1)[0]))[NoticeCode.LAYERS_UNCOVERED]
    assert (notice.count, notice.message) == (2, "8.08% of the model's trained parameters are not covered")


def distances(explainer: Explainer, values: Sequence[Tensor], labels: Sequence[int]) -> Tensor:
    """Natural logarithm of 1 - p of each label, in float64."""
    logits = explainer.classifier.model.double()(torch.stack(list(values)).double()).detach()
    explainer.classifier.model.float()
    rows = torch.arange(len(labels))
    others = logits.clone()
    others[rows, list(labels)] = -torch.inf
    return others.logsumexp(1) - logits.logsumexp(1)


def test_training_rows_without_a_direction_are_counted_and_stay_out_of_relatif(confident: Explainer) -> None:
    images, labels = tiny.pictures(COUNT)
    size = distances(confident, list(images[:, None].float() / 255), labels.tolist()) / np.log(10)
    gone = {i for i, value in enumerate(size.tolist()) if value < -30}
    assert 0 < len(gone) < COUNT and float((size + 30).abs().min()) > 0.01
    [value] = tiny.inputs(1)
    answer = one(confident, value, target=Target(0, 1), top_k=COUNT)
    assert codes(answer)[NoticeCode.ROWS_OMITTED].count == len(gone)
    for measure in (Measure.THETA_RELATIF, Measure.L_RELATIF):
        assert set(shown(answer, measure)) == set(range(COUNT)) - gone
    alone = one(confident, value, target=Target(0, 1), measures=(Measure.INFLUENCE,))
    assert NoticeCode.ROWS_OMITTED not in codes(alone)


def test_a_query_without_a_direction_has_empty_lists_and_a_notice(confident: Explainer) -> None:
    values = tiny.inputs(30)
    labels = [prediction.class_id for prediction in confident.predict(values) if isinstance(prediction, Prediction)]
    size = distances(confident, values, labels) / np.log(10)
    surest = int(size.argmin())
    assert float(size[surest]) < -31
    answer = one(confident, values[surest])
    assert NoticeCode.NO_DIRECTION in codes(answer)
    assert all(not result.proponents and not result.opponents for result in answer.results)
    doubtful = one(confident, values[int(size.argmax())])
    assert NoticeCode.NO_DIRECTION not in codes(doubtful)


@pytest.mark.parametrize(
    ("target", "field", "reason"),
    [
        (Target(3), "target.class_id", "CLASS_UNKNOWN"),
        (Target(-1), "target.class_id", "CLASS_UNKNOWN"),
        (Target(0, 3), "target.contrast.against_class_id", "CLASS_UNKNOWN"),
        (Target(2, 2), "target.contrast", "CONTRAST_SAME_CLASS"),
    ],
)
def test_a_wrong_target_is_that_querys_error_alone(
    explainer: Explainer, target: Target, field: str, reason: str
) -> None:
    first, second = explainer.explain(tiny.inputs(2), [ExplainOptions(target=target), ExplainOptions()])
    assert isinstance(first, InvalidInputError) and (first.field, first.reason) == (field, reason)
    assert isinstance(second, Explanation)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.zeros(6, 6), r"shape \[6, 6\], expected \[1, 6, 6\]"),
        (torch.zeros(1, 6, 6, dtype=torch.int64), r"torch.int64, expected a tensor of floats"),
        (np.zeros((1, 6, 6), np.float32), r"type ndarray, expected a tensor of floats"),
        (None, r"type NoneType"),
    ],
)
def test_an_input_that_the_model_cannot_take_is_that_querys_error_alone(
    explainer: Explainer, bad: Any, words: str
) -> None:
    [good] = tiny.inputs(1)
    for condition in (None, ExplainIf(confidence_below=1.0)):
        options = [ExplainOptions(explain_if=condition)] * 3
        first, second, third = explainer.explain([good, bad, good.double().requires_grad_()], options)
        assert isinstance(second, InvalidInputError) and second.field == "input"
        assert isinstance(first, Explanation) and isinstance(third, Explanation)
        assert shown(first, Measure.INFLUENCE) == pytest.approx(shown(third, Measure.INFLUENCE))
    assert isinstance(explainer.predict([bad, good])[0], InvalidInputError)
    for ask in (
        lambda: explainer.score_examples(bad, ["toy/1"], ExplainOptions()),
        lambda: explainer.estimate_removal(bad, Target(), ["toy/1"]),
        lambda: explainer.find_flip_set(bad),
    ):
        with pytest.raises(InvalidInputError, match=words):
            ask()


def test_each_input_has_its_options(explainer: Explainer) -> None:
    with pytest.raises(InvalidInputError, match="2 inputs came with 1 options"):
        explainer.explain(tiny.inputs(2), [ExplainOptions()])


def test_an_output_that_is_not_finite_is_that_querys_error_alone(explainer: Explainer) -> None:
    good, bad = tiny.inputs(2)
    found = explainer.explain([bad * 3e38 * 9, good], [ExplainOptions()] * 2)
    assert isinstance(found[0], InvalidInputError) and "not finite" in found[0].message
    assert isinstance(found[1], Explanation)
    assert shown(found[1], Measure.INFLUENCE) == pytest.approx(
        shown(one(explainer, good), Measure.INFLUENCE), rel=1e-4
    )
    assert isinstance(explainer.predict([bad * 3e38 * 9])[0], InvalidInputError)


def test_views_disclose_step_by_step(explainer: Explainer) -> None:
    [value] = tiny.inputs(1)
    for view in View:
        answer = one(explainer, value, view=view)
        for influence in answer.results[0].proponents:
            assert influence.source == (f"data.safetensors#{row(influence)}" if view >= View.METADATA else "")
            assert bool(influence.thumbnail) == (view >= View.THUMBNAIL)
            assert influence.label == tiny.CLASSES[row(influence) % 3]
    image = np.asarray(Image.open(io.BytesIO(influence.thumbnail)))
    np.testing.assert_array_equal(image, tiny.pictures(COUNT)[0][row(influence)].numpy())


def test_self_influence_is_the_dense_one(explainer: Explainer, truth: Truth) -> None:
    expected = (truth.gradients * torch.linalg.solve(truth.hessian, truth.gradients.T).T).sum(1)
    for influence in one(explainer, tiny.inputs(1)[0], top_k=COUNT).results[0].proponents:
        assert influence.self_influence == pytest.approx(float(expected[row(influence)]), rel=1e-4)


def test_an_answer_says_where_it_comes_from(explainer: Explainer, bundle: Path) -> None:
    answer = one(explainer, tiny.inputs(1)[0])
    assert (answer.bundle_digest, answer.train_size, answer.quality.curvature) == (bundle.name, COUNT, "exact")
    assert answer.quality.kept_energy == 1
    assert {"forward", "backward", "embed", "search"} <= set(answer.timings)
    assert all(seconds >= 0 for seconds in answer.timings.values())


def test_named_scores_are_those_of_the_lists(explainer: Explainer) -> None:
    [value] = tiny.inputs(1)
    names = ["toy/3", "toy/39", "toy/0", "toy/3"]
    scored = explainer.score_examples(value, names, ExplainOptions())
    answer = one(explainer, value, top_k=COUNT)
    for result in scored.results:
        assert [influence.example_id for influence in result.scores] == names
        found = shown(answer, result.measure)
        assert [i.score for i in result.scores] == pytest.approx([found[row(i)] for i in result.scores], rel=1e-6)
    with pytest.raises(NotFoundError, match="'toy/40'"):
        explainer.score_examples(value, ["toy/40"], ExplainOptions())


def test_nothing_is_left_on_the_model(explainer: Explainer) -> None:
    model = explainer.classifier.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    explainer.explain(tiny.inputs(2), [ExplainOptions()] * 2)
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    for module in model.modules():
        assert not module._backward_hooks and not module.training
    for name, parameter in model.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, before[name])


def test_other_weights_than_the_bundles_are_refused(bundle: Path, tmp_path: Path) -> None:
    weights = load_file(bundle / "model.safetensors")
    save_file(weights, tmp_path / "same.safetensors")
    Explainer.load(bundle, weights=tmp_path / "same.safetensors")
    weights["1.bias"][0] = torch.nextafter(weights["1.bias"][0], torch.tensor(9.0))
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(
        MismatchError, match=r"was built for weights \w{12}, but the model has loaded weights"
    ) as caught:
        Explainer.load(bundle, weights=tmp_path / "other.safetensors")
    assert str(tmp_path / "other.safetensors") in caught.value.message and "proponent rebuild" in caught.value.message


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_found_at_loading(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    try:
        (bundle / name).write_bytes(content[:-1])
        with pytest.raises(CorruptBundleError, match=f"{bundle / name}") as caught:
            Explainer.load(bundle)
        assert caught.value.field == name
    finally:
        (bundle / name).write_bytes(content)
    Explainer.load(bundle)
