"""Which inputs of a batch are worth an explanation: of the others the prediction is all that is answered."""

from __future__ import annotations

import random
from collections.abc import Callable

from proponent.options import ExplainIf
from proponent.results import Notice, NoticeCode, Prediction

SKIPPED = Notice(NoticeCode.EXPLANATION_SKIPPED, "the input did not meet explain_if: only the prediction is answered")


def is_worth_explaining(prediction: Prediction, asked: ExplainIf, draw: Callable[[], float] = random.random) -> bool:
    """Whether any condition holds; ``draw`` gives numbers in 0 <= x < 1 for the sampled share."""
    confidence = prediction.probabilities[prediction.class_id]
    unsure = asked.confidence_below is not None and confidence < asked.confidence_below
    return unsure or (asked.sampled_share is not None and draw() < asked.sampled_share)
