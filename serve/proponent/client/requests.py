"""From plain values to the messages of the service."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from google.protobuf.json_format import MessageToDict

from proponent.client.inputs import Input, input_fields
from proponent.errors import InvalidInputError, ProponentError
from proponent.options import Diversity, ExplainIf, ExplainOptions, Filter, Target
from proponent.results import Explanation
from proponent.v1 import explanation_pb2 as pb


def explain_request(model: str, value: Input, options: ExplainOptions) -> pb.ExplainRequest:
    """A request for an explanation."""
    request = pb.ExplainRequest(
        model=model,
        measures=[f"MEASURE_{measure.name}" for measure in options.measures],
        top_k=options.top_k,
        filter=_filter(options.filter),
        view=f"VIEW_{options.view.name}",
        deadline_policy=f"DEADLINE_POLICY_{options.deadline_policy.name}",
        explain_if=_explain_if(options.explain_if),
        ranking=f"RANKING_{options.ranking.name}",
        **input_fields(value),
    )
    _set_target(request.target, options.target)
    if options.diversity is not None:
        request.diversity.CopyFrom(_diversity(options.diversity))
    return request


class ExplainRequests:
    """A request for each input, whose id is the input's position; gRPC iterates over them.

    What goes wrong meanwhile would end the call without saying why: it is kept for whoever reads the answers.
    """

    def __init__(self, model: str, values: Iterable[Input], options: ExplainOptions) -> None:
        self._model = model
        self._values = values
        self._options = options
        self._unusable: deque[tuple[int, ProponentError]] = deque()
        self._records: dict[int, dict[str, Any]] = {}
        self._broken: Exception | None = None

    def __iter__(self) -> Iterator[pb.StreamExplainRequest]:
        try:
            for position, value in enumerate(self._values):
                try:
                    request = explain_request(self._model, value, self._options)
                except ProponentError as error:
                    self._unusable.append((position, error))
                    continue
                request.request_id = str(position)
                if request.HasField("record"):
                    self._records[position] = MessageToDict(request.record)
                yield pb.StreamExplainRequest(request=request)
        except Exception as error:  # the caller's iterable may raise anything
            self._broken = error

    def beside(self, position: int, found: Explanation | ProponentError) -> tuple[int, Explanation | ProponentError]:
        """An answer with the row that was asked about, where it was one."""
        record = self._records.pop(position, None)
        return position, found if isinstance(found, ProponentError) else replace(found, record=record)

    def unusable(self) -> Iterator[tuple[int, ProponentError]]:
        """The inputs of which no request could be made, each once, with its position."""
        while self._unusable:
            yield self._unusable.popleft()

    def raise_broken(self) -> None:
        """Raises what the iterable of inputs itself raised."""
        if self._broken is not None:
            raise self._broken


def _filter(chosen: Filter) -> pb.Filter:
    return pb.Filter(
        allow_class_ids=sorted(chosen.allow),
        deny_class_ids=sorted(chosen.deny),
        exclude_example_ids=chosen.exclude,
    )


def _explain_if(asked: ExplainIf | None) -> pb.ExplainIf | None:
    if asked is None:
        return None
    return pb.ExplainIf(confidence_below=asked.confidence_below, sampled_share=asked.sampled_share)


def _set_target(message: pb.Target, target: Target) -> None:
    if target.class_id is None and target.against is None:
        return
    if target.class_id is None:
        raise InvalidInputError("a contrast needs the class argued for as well", field="target.contrast")
    if target.against is None:
        message.class_id = target.class_id
    else:
        message.contrast.CopyFrom(pb.Contrast(for_class_id=target.class_id, against_class_id=target.against))


def _diversity(diversity: Diversity) -> pb.Diversity:
    message = pb.Diversity(
        redundancy=f"REDUNDANCY_{diversity.redundancy.name}",
        candidates=diversity.candidates,
        bandwidth=diversity.bandwidth or 0.0,
        whole_dataset=diversity.whole_dataset,
        unscaled=diversity.unscaled,
    )
    if diversity.max_influence_loss is None:
        message.gamma = diversity.gamma
    else:
        message.max_influence_loss = diversity.max_influence_loss
    return message
