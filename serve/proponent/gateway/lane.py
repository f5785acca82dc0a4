"""The queues of a model: predictions have workers of their own, so that no explanation stands in front of them."""

from __future__ import annotations

import enum

from proponent.v1.worker_pb2 import WorkerRequest


class Lane(enum.Enum):
    """A queue with its workers, which TorchServe knows as a model of its own."""

    PREDICTIONS = "predictions"
    """Workers that load the classifier alone."""
    EXPLANATIONS = "explanations"
    """Workers that load all of a bundle and can answer every call."""

    @classmethod
    def of(cls, request: WorkerRequest) -> Lane:
        """Where a request belongs."""
        return cls.PREDICTIONS if request.WhichOneof("call") == "predict" else cls.EXPLANATIONS

    def served_as(self, model: str) -> str:
        """The name of a model's lane in TorchServe; no model can have that of another's predictions."""
        return model if self is Lane.EXPLANATIONS else f"{model}~{self.value}"
