"""What leaves the service of a training example beyond its id: each part with the operator's permission for it alone.

Sources need ``allow_examples`` and thumbnails ``allow_thumbnails``, in whatever reply they would stand; that a
caller's token has the scope ``examples`` is checked besides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proponent.errors import PermissionDeniedError
from proponent.index.bundle import Manifest
from proponent.index.catalog import CatalogEntry
from proponent.v1 import explanation_pb2 as pb


@dataclass(frozen=True)
class Disclosure:
    """The operator's permissions.

    Attributes:
        sources: Whether callers may know where an example comes from, and look examples up.
        thumbnails: Whether callers may see examples.
    """

    sources: bool
    thumbnails: bool

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

    def clear_sources(self, view: int, influences: Iterable[pb.Influence]) -> None:
        """Removes the sources that came with thumbnails, where only those are permitted; no other view brings any."""
        if not self.sources and view == pb.VIEW_THUMBNAIL:
            for influence in influences:
                influence.ClearField("source")

    def example(self, entry: CatalogEntry, manifest: Manifest) -> pb.Example:
        """A looked-up example, with its thumbnail where that is permitted."""
        return pb.Example(
            example_id=entry.example_id,
            class_id=entry.class_id,
            label=manifest.class_names[entry.class_id],
            predicted_class_id=entry.predicted_class_id,
            self_influence=entry.self_influence,
            source=entry.source,
            thumbnail=entry.thumbnail if self.thumbnails else b"",
        )
