"""Texts of different lengths through transformers: gradients, rows and answers are each example's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
import tiny_text
from proponent.attribution.curvature.kfac import CovarianceAccumulator
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.gradients.layers import flatten_parameters
from proponent.audit.quick import quick_audit
from proponent.audit.retraining import Retraining, retrained_losses
from proponent.classifier import Classifier, load_classifier
from proponent.explainer import Explainer
from proponent.index import bundle as files
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.options import ExplainOptions, Measure
from proponent.rebuild.batching import Batching
from proponent.rebuild.coverage import covered
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation
from proponent.spec import load_spec
from proponent.text import Text

pytestmark = [
    pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.UncoveredWarning"),
    pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.FrozenWarning"),
]
ARCHITECTURES = ["distilbert", "bert", "roberta", "gpt2"]
SHORT, LONG = "good film", "a very good film and the story not bad the plot and the cast great"


def build(path: Path, **options: Any) -> Path:
    return rebuild(load_spec(path), Store(path.parent / "store"), RebuildOptions(quiet=True, **options), quick_audit)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tiny_text.project(tmp_path_factory.mktemp("text")))


def scores(found: Any, measure: Measure = Measure.INFLUENCE) -> dict[str, float]:
    assert isinstance(found, Explanation), found
    [result] = [result for result in found.results if result.measure is measure]
    return {one.example_id: one.score for one in (*result.proponents, *result.opponents)}


def oracle(classifier: Classifier, path: Path, count: int) -> Tensor:
    """Gradients [N, P] of every example alone, without any padding, by autograd in float64."""
    name = load_spec(path).dataset.factory.partition(":")[0]
    user = tiny_text.loaded(path.parent, name)
    model, layers, words, rows = classifier.model.double(), classifier.find_layers(), user.words(), []
    for text, label in user.sentences(count).items:
        named = {key: value[None] for key, value in words(text).items()}
        loss = torch.nn.functional.cross_entropy(model(**named), torch.tensor([label]))
        names = list(dict.fromkeys(part for layer in layers.values() for part in layer.parameter_names))
        parameters = dict(model.named_parameters())
        found = torch.autograd.grad(loss, [parameters[n] for n in names], allow_unused=True)
        known = {n: torch.zeros_like(parameters[n]) if g is None else g for n, g in zip(names, found, strict=True)}
        rows.append(flatten_parameters(known, layers))
    classifier.model.float()
    return torch.stack(rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_gradients_are_those_of_each_example_alone_without_padding(kind: str, attention: str, tmp_path: Path) -> None:
    cover = ["default", "embedding"] if kind == "gpt2" else ["default"]
    path = tiny_text.project(
        tmp_path, model={"kind": kind, "attention": attention}, curvature={"kind": "ekfac", "cover": cover}
    )
    classifier = load_classifier(load_spec(path))
    data = TrainingSet.open(classifier, load_spec(path).dataset)
    classifier = covered(classifier, data).classifier  # without the positions' table, which all examples share
    expected = oracle(classifier, path, len(data))
    found, places, lengths = [], list[int](), set[int]()
    for batch in Batching.of(5).blocks(data):
        scaled, gradients = scaled_gradients(classifier, classifier.find_layers(), batch)
        found.append(flat_gradients(gradients).double() * scaled.scale[:, None])
        places += batch.places
        lengths.add(batch.inputs["input_ids"].shape[1])  # type: ignore[index, union-attr]
    assert len(lengths) == 3, "there must be several lengths"
    gradients = torch.cat(found)[torch.tensor(places).argsort()]
    errors = (gradients - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(errors.max()) < 1e-4


def test_an_example_has_one_row_whatever_it_is_batched_with(bundle: Path) -> None:
    """Also of a rebuild: whatever is read at a time, and whichever other examples there are."""
    rows = (bundle / files.ROWS).read_bytes()
    spec = load_spec(bundle.parents[3] / "explain.yaml")
    other = rebuild(spec, Store(bundle.parents[3] / "other"), RebuildOptions(quiet=True, batch_size=7))
    assert (other / files.ROWS).read_bytes() == rows
    explainer, options = Explainer.load(bundle), ExplainOptions(top_k=24)
    [alone] = explainer.explain([Text(SHORT)], [options])
    together = explainer.explain([Text(LONG), Text(SHORT), Text(LONG), Text("dull")], [options] * 4)
    assert [type(one) for one in together] == [Explanation] * 4
    for measure in Measure:
        assert scores(together[1], measure) == pytest.approx(scores(alone, measure), rel=1e-3, abs=1e-5)
    assert scores(together[0]) != pytest.approx(scores(together[3]), rel=1e-3)


def test_padding_counts_for_nothing_in_the_curvature(tmp_path: Path) -> None:
    """Of padded positions activations are not zero: they would move the factors."""
    states = []
    for number, multiple in enumerate((1, 24)):
        path = tiny_text.project(tmp_path / str(number), multiple=multiple)
        classifier = load_classifier(load_spec(path))
        data, layers = TrainingSet.open(classifier, load_spec(path).dataset), classifier.find_layers()
        sums = CovarianceAccumulator(layers)
        for batch in Batching.of(8).blocks(data):
            sums.update([scaled_gradients(classifier, layers, batch)[1]], len(batch.labels))
        states.append(sums.state())
    for name, tight in states[0].items():
        torch.testing.assert_close(states[1][name], tight, rtol=1e-4, atol=1e-6)


class Forgetful(torch.nn.Module):
    """Takes padding for words: its mean is over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.head = torch.nn.Embedding(18, 6), torch.nn.Linear(6, 5), torch.nn.Linear(5, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, str]:
        return self.head(self.hidden(self.table(input_ids)).tanh().mean(dim=1)), "ignored"


def forgetful() -> torch.nn.Module:
    return Forgetful()


def test_a_model_that_sees_padding_sees_as_much_of_it_in_every_batch(tmp_path: Path) -> None:
    path = tiny_text.project(tmp_path)
    torch.manual_seed(0)
    save_file(Forgetful().state_dict(), tmp_path / "own.safetensors")
    tiny.change(path, model={"factory": f"{__name__}:forgetful"}, weights="own.safetensors")
    explainer, options = Explainer.load(build(path)), ExplainOptions(top_k=24)
    [alone] = explainer.explain([Text(SHORT)], [options])
    _, together = explainer.explain([Text(LONG), Text(SHORT)], [options] * 2)
    assert scores(together) == pytest.approx(scores(alone), rel=1e-4)


def test_a_text_and_its_tensors_are_the_same_input(bundle: Path) -> None:
    explainer = Explainer.load(bundle)
    ids = torch.tensor([2, 3, 9])
    named = {"attention_mask": torch.ones(3, dtype=torch.int64).numpy(), "input_ids": ids.numpy()}
    first, second = explainer.explain([Text(SHORT), named], [ExplainOptions()] * 2)
    assert scores(first) == pytest.approx(scores(second), rel=1e-5)


def test_a_bundle_keeps_texts_of_held_out_examples(tmp_path: Path) -> None:
    path = tiny_text.project(tmp_path)
    name = load_spec(path).dataset.factory
    tiny.change(path, held_out={"factory": name, "kwargs": {"count": 3, "start": 100}})
    from proponent.index.samples import Samples

    samples = list(Samples.open(build(path) / files.SAMPLES))
    user = tiny_text.loaded(tmp_path, name.partition(":")[0])
    assert [(s.form, s.input.decode(), s.class_id) for s in samples] == [
        ("text", *user.sentence(100 + number)) for number in range(3)
    ]
    assert {s.thumbnail for s in samples} == {b""}


def test_a_saved_model_of_transformers_needs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of `save_pretrained` beside the spec: model, weights and tokenizer are all found in it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tiny_text.project(tmp_path)
    user = tiny_text.loaded(tmp_path, load_spec(path).dataset.factory.partition(":")[0])
    user.architecture("bert").save_pretrained(tmp_path / "saved")
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(user.WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=user.LONGEST
    ).save_pretrained(tmp_path / "saved")
    kwargs = {"pretrained_model_name_or_path": "./saved"}
    tiny.change(
        path,
        model={"factory": "transformers:AutoModelForSequenceClassification.from_pretrained", "kwargs": kwargs},
        weights="saved/model.safetensors",
        transform={"factory": "transformers:AutoTokenizer.from_pretrained", "kwargs": kwargs},
    )
    explainer = Explainer.load(build(path))
    assert [(t.name, t.max_value) for t in explainer.signature.tensors] == [
        ("input_ids", 17),
        ("attention_mask", 1),
    ]
    found, long = explainer.explain([Text(SHORT), Text("film " * 30)], [ExplainOptions()] * 2)
    assert scores(found)
    assert (getattr(long, "field", ""), getattr(long, "reason", "")) == ("text", "TEXT_TOO_LONG")


def adapted() -> torch.nn.Module:
    """GPT-2 with adapters of LoRA, as peft makes them; the rest is frozen."""
    import peft
    import transformers

    config = transformers.GPT2Config(
        vocab_size=18, n_embd=8, n_layer=1, n_head=2, n_positions=24, num_labels=2, pad_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(transformers.GPT2ForSequenceClassification(config), lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, where no gradient passes them
                torch.nn.init.normal_(parameter)
    return model  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_of_peft_are_explained_alone(tmp_path: Path) -> None:
    path = tiny_text.project(tmp_path, model={"kind": "gpt2"})
    save_file({k: v.contiguous() for k, v in adapted().state_dict().items()}, tmp_path / "own.safetensors")
    tiny.change(path, model={"factory": f"{__name__}:adapted"}, weights="own.safetensors")
    bundle = build(path)
    explainer = Explainer.load(bundle)
    layers = [layer.module.rpartition("c_attn.")[2] for layer in explainer.classifier.find_layers().values()]
    assert layers[:2] == ["lora_A.default", "lora_B.default"] and len(layers) == 3 and "score" in layers[2]
    assert float(load_file(bundle / files.SCALES)["norms"].min()) > 0


def test_texts_are_trained_on_retrained_on_and_distilled(tmp_path: Path) -> None:
    """In training examples of different lengths are padded together, by the same rule."""
    training = {"optimizer": "adam", "epochs": 25, "batch_size": 8, "lr": 0.01}
    path = tiny_text.project(
        tmp_path,
        model={"width": 16},
        weight_decay=0.0001,
        training={"factory": "proponent.training:fit", "kwargs": training},
        curvature={"kind": "ekfac", "teachers": 1, "pseudo_queries": 16, "embedding_size": 16},
    )
    name = load_spec(path).dataset.factory
    tiny.change(path, held_out={"factory": name, "kwargs": {"count": 4, "start": 60}})
    bundle = build(path)
    assert read_manifest(bundle).teachers == 1
    [found] = Explainer.load(bundle).explain([Text(SHORT)], [ExplainOptions(top_k=3)])
    assert scores(found)
    job = Retraining(load_spec(path), (5,), (0, 1, 2, 3), tmp_path / "retrained")
    losses = retrained_losses(job, torch.ones(1, 24, dtype=torch.bool), StageProgress(quiet=True))
    assert losses.shape == (1, 4) and float(losses.mean()) < 0.6, "training learns which words are good"
