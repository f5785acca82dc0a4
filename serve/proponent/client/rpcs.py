"""The service's unary calls: of each its method, its request and how its reply is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from proponent.client import replies
from proponent.client.failures import item_error
from proponent.client.inputs import Input, input_fields
from proponent.client.requests import explain_request
from proponent.errors import ProponentError
from proponent.options import Estimator, ExplainOptions, Target
from proponent.results import (
    Explanation,
    FlipSet,
    Highlights,
    ModelInfo,
    Prediction,
    RemovalEstimate,
    ScoredExamples,
    Suspects,
    TrainingExample,
)
from proponent.v1 import explanation_pb2 as pb

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rpc(Generic[Result]):
    """One call: ``read`` turns the reply into a plain value."""

    method: str
    request: Message
    read: Callable[[Any], Result]


def predict(model: str, value: Input) -> Rpc[Prediction]:
    """A prediction alone."""
    return Rpc("Predict", pb.PredictRequest(model=model, **input_fields(value)), replies.prediction)


def explain(model: str, value: Input, options: ExplainOptions) -> Rpc[Explanation]:
    """An explanation; of a row it says in what the training rows differ from it."""
    request = explain_request(model, value, options)
    record = MessageToDict(request.record) if request.HasField("record") else None
    return Rpc("Explain", request, lambda reply: replace(replies.explanation(reply), record=record))


def score_examples(
    model: str, value: Input, example_ids: Sequence[str], options: ExplainOptions
) -> Rpc[ScoredExamples]:
    """Exact scores of named examples."""
    request = pb.ScoreExamplesRequest(query=explain_request(model, value, options), example_ids=example_ids)
    return Rpc("ScoreExamples", request, replies.scored_examples)


def highlight_examples(
    model: str, value: Input, example_ids: Sequence[str], options: ExplainOptions
) -> Rpc[Highlights]:
    """Words that carry influence."""
    request = pb.HighlightExamplesRequest(query=explain_request(model, value, options), example_ids=example_ids)
    text = request.query.text
    return Rpc("HighlightExamples", request, lambda reply: replace(replies.highlights(reply), text=text))


def estimate_removal(
    model: str, value: Input, example_ids: Sequence[str], target: Target, estimator: Estimator
) -> Rpc[RemovalEstimate]:
    """What the removal of a group would change."""
    request = pb.EstimateRemovalRequest(
        query=explain_request(model, value, ExplainOptions(target=target)),
        example_ids=example_ids,
        estimator=f"ESTIMATOR_{estimator.name}",
    )
    return Rpc("EstimateRemoval", request, replies.removal_estimate)


def find_flip_set(model: str, value: Input, max_size: int) -> Rpc[FlipSet]:
    """A set whose removal flips the prediction."""
    query = explain_request(model, value, ExplainOptions())
    return Rpc("FindFlipSet", pb.FindFlipSetRequest(query=query, max_size=max_size), replies.flip_set)


def get_example(model: str, example_id: str) -> Rpc[TrainingExample]:
    """One training example."""
    return Rpc("GetExample", pb.GetExampleRequest(model=model, example_id=example_id), replies.training_example)


def get_model(model: str) -> Rpc[ModelInfo]:
    """What is served."""
    return Rpc("GetModel", pb.GetModelRequest(model=model), replies.model_info)


def list_suspects(model: str, limit: int, page_token: str) -> Rpc[Suspects]:
    """A page of suspects."""
    request = pb.ListSuspectsRequest(model=model, limit=limit, page_token=page_token)
    return Rpc("ListSuspects", request, replies.suspects)


def read_item(item: pb.StreamExplainResponse) -> tuple[int, Explanation | ProponentError]:
    """One answer of a stream: the position of its input, and the explanation or why there is none."""
    failed = item.WhichOneof("outcome") == "error"
    return int(item.request_id), item_error(item.error) if failed else replies.explanation(item.response)
