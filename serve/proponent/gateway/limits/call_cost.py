"""Each call's cost is bounded before a worker is asked: requests in the terms of ``proponent.bounds.cost``."""

from __future__ import annotations

from dataclasses import replace

from proponent.bounds.cost import (
    check_cost,
    diversity_cost,
    flip_cost,
    highlights_cost,
    lists_cost,
    removal_cost,
    scores_cost,
)
from proponent.gateway.validation import list_length, measure_count
from proponent.index.bundle import Manifest
from proponent.options import Estimator
from proponent.request_options import diversity_from, estimator_from
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerRequest


def check_call_cost(request: WorkerRequest, manifest: Manifest, limit_s: float) -> None:
    """Refuses a call whose estimated time or memory is over the bound.

    Raises:
        InvalidInputError: Names the field, the cost, the bound and what would fit (COST_TOO_LARGE).
    """
    call = request.WhichOneof("call")
    if call == "explain":
        _check_lists(request.explain, manifest, limit_s)
    elif call == "score":
        measures, count = measure_count(request.score.query), len(request.score.example_ids)
        check_cost(lambda n: scores_cost(manifest, n, measures), count, "example_ids", limit_s)
    elif call == "highlight":
        check_cost(highlights_cost, len(request.highlight.example_ids), "example_ids", limit_s)
    elif call == "removal":
        second_order = estimator_from(request.removal) is Estimator.SECOND_ORDER
        count = len(request.removal.example_ids)
        check_cost(lambda n: removal_cost(manifest, n, second_order=second_order), count, "example_ids", limit_s)
    elif call == "flip":
        asked = min(request.flip.max_size or manifest.train_size // 10, manifest.train_size)
        check_cost(lambda n: flip_cost(manifest, n), asked, "max_size", limit_s)


def _check_lists(request: pb.ExplainRequest, manifest: Manifest, limit_s: float) -> None:
    top_k, measures = list_length(request, manifest), measure_count(request)
    check_cost(lambda n: lists_cost(manifest, n, measures), top_k, "top_k", limit_s)
    if not request.HasField("diversity"):
        return
    asked = diversity_from(request.diversity)
    if asked.candidates <= top_k:
        check_cost(lambda n: diversity_cost(manifest, asked, n, measures), top_k, "top_k", limit_s)
        return
    check_cost(
        lambda n: diversity_cost(manifest, replace(asked, candidates=n), top_k, measures),
        asked.candidates,
        "diversity.candidates",
        limit_s,
    )
