"""The service's unary calls: the name of each, and how its reply is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from proponent.client import replies
from proponent.client.failures import item_error
from proponent.errors import ProponentError
from proponent.results import (
    Explanation,
    FlipSet,
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
    """One call: ``read`` turns its reply into a plain value."""

    name: str
    read: Callable[[Any], Result]


PREDICT: Rpc[Prediction] = Rpc("Predict", replies.prediction)
EXPLAIN: Rpc[Explanation] = Rpc("Explain", replies.explanation)
SCORE: Rpc[ScoredExamples] = Rpc("ScoreExamples", replies.scored_examples)
REMOVAL: Rpc[RemovalEstimate] = Rpc("EstimateRemoval", replies.removal_estimate)
FLIP: Rpc[FlipSet] = Rpc("FindFlipSet", replies.flip_set)
EXAMPLE: Rpc[TrainingExample] = Rpc("GetExample", replies.training_example)
MODEL: Rpc[ModelInfo] = Rpc("GetModel", replies.model_info)
SUSPECTS: Rpc[Suspects] = Rpc("ListSuspects", replies.suspects)


def read_item(item: pb.StreamExplainResponse) -> tuple[int, Explanation | ProponentError]:
    """One answer of a stream: the position of its input, and the explanation or why there is none."""
    failed = item.WhichOneof("outcome") == "error"
    return int(item.request_id), item_error(item.error) if failed else replies.explanation(item.response)
