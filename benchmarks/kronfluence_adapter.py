"""Kronfluence's EK-FAC on a classifier of this project: same weights, same examples, held in memory.

Its ``damping_factor`` is one absolute number that is added to every layer's eigenvalues; ``None`` adds 0.1 of each
layer's mean eigenvalue instead. That 0.1 is a constant of its module, set here for the time of a call, so that it can
be tuned on the very grid that proponent's relative damping is tuned on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kronfluence.factor.config as kronfluence_config
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from proponent.attribution.inputs import NamedInputs, RaggedInputs, tensors_of
from proponent.classifier import load_classifier
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec

DEFAULT_DAMPING = 1e-8
HEURISTIC_DAMPING = 0.1
"""Kronfluence's own: the absolute default, and the share of the mean eigenvalue."""

_FACTORS = "ekfac"


@dataclass(frozen=True)
class Damping:
    """What is added to a layer's eigenvalues: ``value``, or ``value`` times their mean where relative."""

    value: float
    relative: bool


class Classification(Task):
    """Cross-entropy as training loss and as measurement; labels sampled from the model for the true Fisher.

    Args:
        names: Of the model's inputs; empty where it takes one tensor.
    """

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._names = names

    def get_attention_mask(self, batch: tuple[Tensor, ...]) -> Tensor | None:
        """Which positions are no padding, as Kronfluence's own GLUE example says it."""
        return dict(zip(self._names, batch, strict=False)).get("attention_mask")

    def compute_train_loss(self, batch: tuple[Tensor, ...], model: nn.Module, sample: bool = False) -> Tensor:
        """The summed loss at the batch's labels, or at sampled ones."""
        *inputs, labels = batch
        outputs = model(NamedInputs(dict(zip(self._names, inputs, strict=True))) if self._names else inputs[0])
        if sample:
            labels = torch.multinomial(outputs.detach().softmax(dim=1), 1).flatten()
        return nn.functional.cross_entropy(outputs, labels, reduction="sum")

    def compute_measurement(self, batch: tuple[Tensor, ...], model: nn.Module) -> Tensor:
        """The summed loss at the true labels."""
        return self.compute_train_loss(batch, model)


def examples(data: TrainingSet, positions: list[int] | None = None) -> TensorDataset:
    """Decoded and transformed examples, padded together where they differ in length."""
    batch = data.batch(list(range(len(data))) if positions is None else positions)
    inputs = batch.inputs.together() if isinstance(batch.inputs, RaggedInputs) else batch.inputs
    return TensorDataset(*(tensor.cpu() for tensor in (*tensors_of(inputs).values(), batch.labels)))


class Kronfluence:
    """Factors fitted once, pairwise scores at any damping; what is finished in ``work`` is not made anew."""

    def __init__(self, spec: ModelSpec, train: TensorDataset, work: Path, batch_size: int) -> None:
        classifier = load_classifier(spec)
        names = TrainingSet.open(classifier, spec.dataset).signature.tensors
        task = Classification(tuple(tensor.name for tensor in names if tensor.name))
        model = prepare_model(classifier.model, task)
        cpu = classifier.device.type == "cpu"
        self._analyzer = Analyzer("peer", model, task, cpu=cpu, output_dir=str(work), disable_tqdm=True)
        self._train = train
        self._batch_size = batch_size

    def fit(self, seed: int = 0) -> None:
        """Covariances, eigenvectors and corrected eigenvalues by the true Fisher, over all examples."""
        torch.manual_seed(seed)
        with _quiet():
            self._analyzer.fit_all_factors(
                _FACTORS,
                self._train,
                per_device_batch_size=self._batch_size,
                factor_args=FactorArguments(strategy="ekfac"),
            )

    def pairwise(
        self, queries: TensorDataset, damping: Damping, train: TensorDataset | None = None, name: str = ""
    ) -> Tensor:
        """Scores [Q, N], positive for proponents; all queries as one batch. Those of a ``name`` are kept."""
        arguments = ScoreArguments(damping_factor=None if damping.relative else damping.value)
        with _quiet(), _heuristic(damping.value if damping.relative else HEURISTIC_DAMPING):
            self._analyzer.compute_pairwise_scores(
                name or "scores",
                _FACTORS,
                queries,
                self._train if train is None else train,
                per_device_query_batch_size=len(queries),
                per_device_train_batch_size=self._batch_size,
                score_args=arguments,
                overwrite_output_dir=not name,
            )
            return self._analyzer.load_pairwise_scores(name or "scores")["all_modules"]

    def mean_eigenvalues(self) -> list[float]:
        """Of each layer."""
        found = self._analyzer.load_lambda_matrices(_FACTORS)
        counts = found["num_lambda_processed"]
        return [float(value.double().mean() / counts[name]) for name, value in found["lambda_matrix"].items()]


@contextmanager
def _heuristic(scale: float) -> Iterator[None]:
    before = kronfluence_config.HEURISTIC_DAMPING_SCALE
    kronfluence_config.HEURISTIC_DAMPING_SCALE = scale
    try:
        yield
    finally:
        kronfluence_config.HEURISTIC_DAMPING_SCALE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its warnings about torch's deprecated names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
