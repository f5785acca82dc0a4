"""What a TorchServe worker does with a batch: each item is read, routed and answered by itself.

Predictions of a batch share one forward, explanations one forward, one backward and one scan. An item that
cannot be read or answered gets its own error; the others never notice. An item that nobody waits for any more is
dropped before it costs anything, and what it costs stops when the last caller leaves.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from google.protobuf.message import Message

from proponent.attribution.inputs import Example
from proponent.bounds.cancellation import Token, always, any_of, checkpoint, scope, until
from proponent.bounds.liveness import TicketTable, start_heartbeat
from proponent.errors import InternalError, ProponentError
from proponent.explainer import Explainer, OpenRows, Predictor
from proponent.input_checks import check_weighable
from proponent.options import ExplainOptions
from proponent.request_options import estimator_from, options_from
from proponent.stages import Stage, recording, stage
from proponent.text import Text
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.failures import failure, is_gpu_lost, located
from proponent.worker.inputs import requested_input
from proponent.worker.loading import LoadedBundle
from proponent.worker.log import configure_worker_logs, working_on
from proponent.worker.messages import (
    error_message,
    explain_response,
    flip_response,
    highlight_response,
    predict_response,
    removal_response,
    score_response,
    stage_messages,
)
from proponent.worker.warmup import warmed_up

Answer = Message | ProponentError
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One request of a batch: what is asked, whether the answer is JSON (a raw image came in), and who waits."""

    request: WorkerRequest
    as_json: bool
    token: Token = always


Run = Callable[[Any, Sequence[Item]], list[Answer]]
"""Answers items of one kind by a Predictor, or by an Explainer where it takes one."""


class Worker:
    """An explainer or predictor behind messages; as long as it cannot be loaded, every answer is the reason.

    Args:
        loaded: The bundle, or an explainer or predictor of it.
        tickets: Where the gateway says who still waits; None where there is none.
    """

    def __init__(self, loaded: LoadedBundle | Predictor, tickets: TicketTable | None = None) -> None:
        self._loaded = loaded if isinstance(loaded, LoadedBundle) else LoadedBundle(lambda: loaded)
        self._tickets = tickets
        self.is_lost = False
        """Whether no answer is possible any more before another process takes this one's place."""

    @classmethod
    def load(
        cls,
        bundle: Path,
        weights: Path | None,
        device: torch.device | None,
        liveness: Path | None = None,
        *,
        predicts_only: bool = False,
        open_rows: OpenRows | None = None,
    ) -> Worker:
        """Loads the bundle; a failure is kept and told to every caller instead of killing the process.

        Args:
            bundle: Its directory.
            weights: Those deployed, if not the bundle's own.
            device: Where the model runs; None takes what the spec says.
            liveness: Directory that the gateway reads heartbeats from; None without a gateway.
            predicts_only: Loads the classifier alone.
            open_rows: Opens rows that lie elsewhere than in this process.
        """
        if liveness is not None:
            configure_worker_logs()
            start_heartbeat(liveness)

        def load() -> Predictor:
            if predicts_only:
                return Predictor.load(bundle, weights=weights, device=device)
            return Explainer.load(bundle, weights=weights, device=device, open_rows=open_rows)

        loaded = LoadedBundle(lambda: warmed_up(load()))
        return cls(loaded, TicketTable.open(liveness) if liveness else None)

    def handle(self, items: Sequence[Item | ProponentError]) -> list[WorkerReply]:
        """One reply for each item, in order."""
        replies = [WorkerReply() for _ in items]
        groups = defaultdict[str | None, list[tuple[Item, WorkerReply]]](list)
        for item, reply in zip(items, replies, strict=True):
            if isinstance(item, ProponentError):
                reply.error.CopyFrom(error_message(item))
            else:
                timed = replace(item, token=self._token(item.request))
                groups[item.request.WhichOneof("call")].append((timed, reply))
        for call in _CALLS:
            self._run(groups[call], call)
        self._report_state([reply for _, reply in groups[None]])
        return replies

    def _report_state(self, replies: Sequence[WorkerReply]) -> None:
        """An empty request asks whether answers are possible."""
        for reply in replies:
            if isinstance(found := self._loaded.checked(), ProponentError):
                reply.error.CopyFrom(error_message(found))

    def _token(self, request: WorkerRequest) -> Token:
        """Tells the gateway that the request is here; the token says whether somebody still waits for it."""
        if self._tickets is not None:
            self._tickets.begin(request.ticket)
        if not request.deadline_ns:
            return always
        if self._tickets is None:
            return until(request.deadline_ns)
        return until(request.deadline_ns, partial(self._tickets.holds, request.ticket))

    def _run(self, group: Sequence[tuple[Item, WorkerReply]], call: str) -> None:
        if not group:
            return
        begun, items = time.monotonic_ns(), [item for item, _ in group]
        with working_on([item.request for item in items]), recording() as stages:
            answers = self._answers(call, items)
        for (item, reply), answer in zip(group, answers, strict=True):
            if isinstance(answer, ProponentError):
                reply.error.CopyFrom(error_message(located(answer, item.request)))
            else:
                getattr(reply, call).CopyFrom(answer)
            reply.stages.extend(stage_messages(item.request, begun, stages))
            reply.batch_size = len(group)

    def _answers(self, call: str, items: Sequence[Item]) -> list[Answer]:
        """Answers of a batch; should it fail as a whole, each item is tried alone."""
        predictor = self._loaded.predictor
        if isinstance(predictor, ProponentError):
            return [predictor] * len(items)
        if call != "predict" and not isinstance(predictor, Explainer):
            return [InternalError(f"a worker that only predicts was asked for {call!r}")] * len(items)
        try:
            with scope(any_of([item.token for item in items])):
                return _CALLS[call](predictor, items)
        except Exception as error:
            self.is_lost |= is_gpu_lost(error, predictor.classifier.device)
            if len(items) == 1:
                return [failure(error)]
            return [self._answers(call, [item])[0] for item in items]


def _predict(predictor: Predictor, items: Sequence[Item]) -> list[Answer]:
    inputs, answers, _ = _read(items, lambda item: requested_input(item.request.predict, predictor))
    with stage("forward"):
        found = predictor.predict(list(inputs.values())) if inputs else []
    for number, prediction in zip(inputs, found, strict=True):
        if isinstance(prediction, ProponentError):
            answers[number] = prediction
        else:
            request_id = items[number].request.predict.request_id
            answers[number] = predict_response(prediction, predictor.manifest.digest, request_id)
    return [answers[number] for number in range(len(items))]


def _explain(explainer: Explainer, items: Sequence[Item]) -> list[Answer]:
    def read(item: Item) -> tuple[Example, ExplainOptions]:
        return requested_input(item.request.explain, explainer), options_from(item.request.explain)

    queries, answers, decode = _read(items, read)
    inputs, options = [value for value, _ in queries.values()], [option for _, option in queries.values()]
    found = explainer.explain(inputs, options, [items[number].token for number in queries]) if queries else []
    for number, explanation in zip(queries, found, strict=True):
        if isinstance(explanation, ProponentError):
            answers[number] = explanation
        else:
            timed = replace(explanation, timings={decode.name: decode.seconds, **explanation.timings})
            answers[number] = explain_response(timed, items[number].request.explain.request_id)
    return [answers[number] for number in range(len(items))]


def _read(items: Sequence[Item], read: Callable[[Item], T]) -> tuple[dict[int, T], dict[int, Answer], Stage]:
    """What could be read, by the numbers of the items, the errors of the others, and the time it took."""
    readable: dict[int, T] = {}
    errors: dict[int, Answer] = {}
    with stage("decode") as decode:
        for number, item in enumerate(items):
            try:
                item.token()
                readable[number] = read(item)
            except ProponentError as error:
                errors[number] = error
    for number in list(readable):
        try:
            items[number].token()  # decoding a batch of large images takes seconds, in which callers leave
        except ProponentError as error:
            errors[number] = error
            del readable[number]
    return readable, errors, decode


def _one_by_one(
    answer: Callable[[Explainer, WorkerRequest], Message], explainer: Explainer, items: Sequence[Item]
) -> list[Answer]:
    return [_alone(answer, explainer, item) for item in items]


def _alone(answer: Callable[[Explainer, WorkerRequest], Message], explainer: Explainer, item: Item) -> Answer:
    try:
        with scope(item.token):
            checkpoint()
            return answer(explainer, item.request)
    except ProponentError as error:
        return error


def _score(explainer: Explainer, request: WorkerRequest) -> Message:
    query = request.score.query
    value, options = _decoded(explainer, query), options_from(query)
    return score_response(explainer.score_examples(value, request.score.example_ids, options))


def _highlight(explainer: Explainer, request: WorkerRequest) -> Message:
    asked = request.highlight
    check_weighable(asked.query.WhichOneof("input") or "input", "query.")
    text, options = Text(asked.query.text), options_from(asked.query)
    return highlight_response(explainer.highlight_examples(text, asked.example_ids, options))


def _removal(explainer: Explainer, request: WorkerRequest) -> Message:
    removal = request.removal
    value, target = _decoded(explainer, removal.query), options_from(removal.query).target
    estimator = estimator_from(removal)
    return removal_response(explainer.estimate_removal(value, target, removal.example_ids, estimator=estimator))


def _flip(explainer: Explainer, request: WorkerRequest) -> Message:
    return flip_response(explainer.find_flip_set(_decoded(explainer, request.flip.query), request.flip.max_size))


_CALLS: Mapping[str, Run] = {
    "predict": _predict,
    "explain": _explain,
    "score": partial(_one_by_one, _score),
    "removal": partial(_one_by_one, _removal),
    "flip": partial(_one_by_one, _flip),
    "highlight": partial(_one_by_one, _highlight),
}


def _decoded(explainer: Explainer, query: pb.ExplainRequest) -> Example:
    with stage("decode"):
        return requested_input(query, explainer)
