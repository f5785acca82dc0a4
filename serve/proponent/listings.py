"""What a service lists beside explanations: samples, training examples and counts of them, bundles; plain values.

Every list has ``to_pandas()``, which needs pandas (``pip install pandas``). What a caller is not told is nan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proponent.options import Measure
from proponent.results import DisclosureLevel, TrainingExample, table

if TYPE_CHECKING:
    import numpy
    import pandas
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """A held-out input that a bundle keeps.

    Attributes:
        predicted_class_id: What the bundle's model says.
        input: As ``Client.explain`` takes it: the bytes of a PNG file, or an array of float32; None in a list.
        thumbnail: PNG, or empty where it was not asked for or the input is no picture.
    """

    sample_id: str
    class_id: int
    label: str
    predicted_class_id: int
    input: bytes | NDArray[numpy.float32] | None = None
    thumbnail: bytes = b""


@dataclass(frozen=True)
class SamplePage:
    """A page of samples, without their inputs.

    Attributes:
        total: How many the bundle keeps.
        next_page_token: Asks for the next page; empty after the last one.
    """

    samples: Sequence[Sample]
    bundle_digest: str
    total: int
    next_page_token: str = ""

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each sample."""
        return table(vars(sample) for sample in self.samples)


@dataclass(frozen=True)
class ExamplePage:
    """A page of training examples.

    Attributes:
        total: How many match the query.
        next_page_token: Asks for the next page; empty after the last one.
    """

    examples: Sequence[TrainingExample]
    bundle_digest: str
    total: int
    next_page_token: str = ""

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each example."""
        return table(vars(example) for example in self.examples)


@dataclass(frozen=True)
class ClassSummary:
    """The training examples of one label; see ClassSummary in the proto for each field."""

    class_id: int
    label: str
    count: int
    predicted_count: int
    disagreeing_count: int
    label_issues: int
    mean_self_influence: float
    median_self_influence: float


@dataclass(frozen=True)
class ExampleSummary:
    """Counts of training examples, by class and by self-influence.

    Attributes:
        classes: One for each class of the model, in class order.
        edges: Borders of the histogram's bins, one more than bins; empty where no self-influence is told or positive.
        counts: Examples in each bin.
        zeros: Examples whose self-influence is 0.
        total: All of them.
        label_issues: Suspects of a wrong label among them.
    """

    classes: Sequence[ClassSummary]
    edges: Sequence[float]
    counts: Sequence[int]
    zeros: int
    total: int
    label_issues: int
    bundle_digest: str

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each class."""
        return table(vars(summary) for summary in self.classes)


@dataclass(frozen=True)
class FrequentExamples:
    """The training examples that stand in most lists of a bundle's samples.

    Attributes:
        examples: Most frequent first, each with the number of lists that hold it.
        lists: Lists looked at.
        slots: Places in all of them.
        distinct: Different examples that fill them.
        top_k: Length of the lists.
        max_top_k: Largest length that can be asked for.
        samples: How many samples the bundle keeps.
    """

    examples: Sequence[tuple[TrainingExample, int]]
    lists: int
    slots: int
    distinct: int
    top_k: int
    max_top_k: int
    samples: int
    bundle_digest: str

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each example, with its count."""
        return table({**vars(example), "count": count} for example, count in self.examples)


@dataclass(frozen=True)
class BundleInfo:
    """A bundle in the store; see BundleSummary in the proto for each field."""

    digest: str
    is_current: bool
    is_previous: bool
    created: str
    curvature: str
    damping: float
    damping_relative: bool
    embedding_size: int
    train_size: int
    forgotten: int
    train_accuracy: float
    kept_energy: float
    loss: str
    weights_sha256: str
    size_bytes: int
    audit: Mapping[str, object]
    samples: int
    error: str


@dataclass(frozen=True)
class Bundles:
    """The bundles of a model, newest first."""

    bundles: Sequence[BundleInfo]

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each bundle."""
        return table(vars(bundle) for bundle in self.bundles)


@dataclass(frozen=True)
class DiffSummary:
    """How far two bundles agree on some samples.

    Attributes:
        samples: How many.
        overlap: Mean share of both lists' examples that both bundles name, 0..1.
        predictions_changed: Samples that the two models classify differently.
    """

    samples: int
    overlap: float
    predictions_changed: int


@dataclass(frozen=True)
class SampleDiff:
    """The lists of one sample in two bundles; see SampleDiff in the proto for each field."""

    sample_id: str
    class_id: int
    overlap: float
    base_class_id: int
    other_class_id: int
    entered_proponents: Sequence[str]
    left_proponents: Sequence[str]
    entered_opponents: Sequence[str]
    left_opponents: Sequence[str]


@dataclass(frozen=True)
class BundleDiff:
    """What changed in the reasons between two bundles.

    Attributes:
        base: Digest of the older one.
        other: Digest of the newer one.
        per_class: By the name of the class that the base's model predicts, with its number where two have one name.
        per_sample: Least overlap first; empty where the caller may not see samples.
    """

    base: str
    other: str
    measure: Measure
    top_k: int
    max_top_k: int
    overall: DiffSummary
    per_class: Mapping[str, DiffSummary]
    per_sample: Sequence[SampleDiff]
    disclosure_level: DisclosureLevel = DisclosureLevel.FULL

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each sample."""
        return table(vars(sample) for sample in self.per_sample)
