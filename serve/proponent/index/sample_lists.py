"""What the lists of samples say together: which examples crowd them, and what changed between two bundles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from proponent.index.samples import ListsOfMeasure, Sample, Samples, StoredInfluence
from proponent.options import Measure, Side


@dataclass(frozen=True)
class Frequencies:
    """How many lists each example stands in.

    Attributes:
        counts: By example id.
        lists: Lists looked at, the empty ones too.
        slots: Places in all of them.
    """

    counts: Counter[str]
    lists: int
    slots: int

    def first(self, limit: int) -> list[tuple[str, int]]:
        """The most frequent examples; of the same count by id."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:limit]


@dataclass(frozen=True)
class ComparedSample:
    """The lists of one sample in two bundles; ids strongest first.

    Attributes:
        overlap: Share of both lists' examples that both bundles name, 0..1; 1 where both have none.
    """

    sample: Sample
    other_class_id: int
    overlap: float
    entered: Mapping[Side, Sequence[str]]
    left: Mapping[Side, Sequence[str]]

    @property
    def changed(self) -> bool:
        """Whether the two models classify it differently."""
        return self.sample.predicted_class_id != self.other_class_id


@dataclass(frozen=True)
class StoredLists:
    """The samples of one bundle and their lists under one measure."""

    samples: Sequence[Sample]
    lists: ListsOfMeasure

    @classmethod
    def read(cls, samples: Samples, measure: Measure, forgotten: frozenset[str] = frozenset()) -> StoredLists:
        """All samples without their inputs, and their lists without forgotten examples."""
        return cls(samples.page(len(samples)), samples.lists(measure, forgotten))

    def frequencies(self, sides: Collection[Side], top_k: int) -> Frequencies:
        """Counts the examples of all lists of some sides, each as long as ``top_k``."""
        chosen = [self.lists.of(sample.position)[side][:top_k] for sample in self.samples for side in sides]
        counts = Counter(one.example_id for listed in chosen for one in listed)
        return Frequencies(counts, len(chosen), sum(map(len, chosen)))

    def compared(self, other: StoredLists, top_k: int) -> list[ComparedSample]:
        """The samples that both hold, by id and content, least overlap first."""
        theirs = {(sample.sample_id, sample.sha256): sample for sample in other.samples}
        pairs = [(sample, theirs.get((sample.sample_id, sample.sha256))) for sample in self.samples]
        found = [
            _compared(ours, it.predicted_class_id, self.lists.of(ours.position), other.lists.of(it.position), top_k)
            for ours, it in pairs
            if it is not None
        ]
        return sorted(found, key=lambda each: (each.overlap, each.sample.position))


def _compared(
    sample: Sample,
    other_class_id: int,
    base: Mapping[Side, Sequence[StoredInfluence]],
    other: Mapping[Side, Sequence[StoredInfluence]],
    top_k: int,
) -> ComparedSample:
    before, after = (
        {side: [one.example_id for one in lists[side][:top_k]] for side in Side} for lists in (base, other)
    )
    shared = sum(len(set(before[side]) & set(after[side])) for side in Side)
    longest = sum(max(len(before[side]), len(after[side])) for side in Side)
    return ComparedSample(
        sample,
        other_class_id,
        shared / longest if longest else 1.0,
        entered={side: _without(after[side], before[side]) for side in Side},
        left={side: _without(before[side], after[side]) for side in Side},
    )


def _without(ids: Sequence[str], others: Collection[str]) -> list[str]:
    known = set(others)
    return [example_id for example_id in ids if example_id not in known]
