"""The embeddings of an index's training examples and of held-out ones, whose products are influences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from proponent.audit.scoring import AuditContext, held_out_queries


def embeddings(context: AuditContext, queries: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Phi of all training examples, [N, K] float64 in the data set's order, and of some held-out ones, [Q, K]."""
    index = context.explainer.index
    rows = index.unit_rows(context.rows).double() * index.scales.norms[context.rows][:, None]
    directions, norms = held_out_queries(context, queries)
    return rows, directions.double() * norms[:, None]
