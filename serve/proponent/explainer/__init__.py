"""The online path: a batch of inputs in, predictions and explanations out. No service code."""

from proponent.explainer.explainer import Explainer, OpenRows
from proponent.explainer.opening import read_spec
from proponent.explainer.predictor import Predictor
from proponent.explainer.query import EmbeddedQuery

__all__ = ["EmbeddedQuery", "Explainer", "OpenRows", "Predictor", "read_spec"]
