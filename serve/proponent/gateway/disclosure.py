"""What leaves the service of a training example beyond its id: each part with the operator's permission for it alone.

Sources need ``allow_examples``, and what shows an example (thumbnail, text or row) ``allow_thumbnails``, in whatever
reply they would stand; that a caller's token has the scope ``examples`` is checked besides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import Message

from proponent.errors import PermissionDeniedError
from proponent.index.bundle import Manifest
from proponent.index.catalog import CatalogEntry, Place
from proponent.v1 import explanation_pb2 as pb


@dataclass(frozen=True)
class Disclosure:
    """The operator's permissions.

    Attributes:
        sources: Whether callers may know where an example comes from, and look examples up.
        thumbnails: Whether callers may see examples: pictures of them, texts and rows.
        samples: Whether callers may see the held-out inputs that a bundle keeps.
    """

    sources: bool
    thumbnails: bool
    samples: bool = False

    def require_view(self, view: int) -> None:
        """Raises PermissionDeniedError where a view's own addition is not permitted."""
        if view == pb.VIEW_METADATA and not self.sources:
            raise PermissionDeniedError(
                "this server does not disclose sources of training examples", field="view", reason="EXAMPLES_DISABLED"
            )
        if view == pb.VIEW_THUMBNAIL and not self.thumbnails:
            raise PermissionDeniedError(
                "this server does not disclose thumbnails", field="view", reason="THUMBNAILS_DISABLED"
            )

    def require_examples(self) -> None:
        """Raises PermissionDeniedError where examples may not be looked up."""
        if not self.sources:
            raise PermissionDeniedError("this server does not disclose training examples", reason="EXAMPLES_DISABLED")

    def require_samples(self) -> None:
        """Raises PermissionDeniedError where held-out inputs may not be seen."""
        if not self.samples:
            raise PermissionDeniedError("this server does not disclose samples", reason="SAMPLES_DISABLED")

    def clear_sources(self, view: int, influences: Iterable[pb.Influence]) -> None:
        """Removes the sources that came with thumbnails, where only those are permitted; no other view brings any."""
        if not self.sources and view == pb.VIEW_THUMBNAIL:
            for influence in influences:
                influence.ClearField("source")

    def example(self, entry: CatalogEntry, manifest: Manifest, view: int, issues: Place | None) -> pb.Example:
        """An example as far as a view and the permissions go; ``issues`` is the last place of label issues."""
        disagrees = entry.class_id != entry.predicted_class_id
        shown = self.thumbnails and view >= pb.VIEW_THUMBNAIL
        return pb.Example(
            example_id=entry.example_id,
            class_id=entry.class_id,
            label=manifest.class_names[entry.class_id],
            predicted_class_id=entry.predicted_class_id,
            self_influence=entry.self_influence,
            source=entry.source if self.sources and view >= pb.VIEW_METADATA else "",
            thumbnail=entry.thumbnail if shown else b"",
            text=entry.text if shown else "",
            record=entry.record if shown else None,
            is_label_issue=disagrees and issues is not None and issues.reaches(entry),
        )


def count_examples(reply: Message) -> int:
    """How many training examples stand in a reply, each as often as it does."""
    if isinstance(reply, pb.ExplainResponse):
        return sum(len(result.proponents) + len(result.opponents) for result in reply.results)
    if isinstance(reply, pb.ScoreExamplesResponse):
        return sum(len(result.scores) for result in reply.results)
    if isinstance(reply, pb.HighlightExamplesResponse):
        return len(reply.highlights)
    if isinstance(reply, pb.FindFlipSetResponse):
        return len(reply.members)
    if isinstance(reply, pb.ListSuspectsResponse):
        return len(reply.suspects)
    if isinstance(reply, pb.ListExamplesResponse | pb.ListFrequentExamplesResponse):
        return len(reply.examples)
    return int(isinstance(reply, pb.GetExampleResponse))
