"""A small classifier of the DistilBERT architecture (Sanh et al. 2019), of transformers, with random weights."""

from __future__ import annotations

from tokenizers import Tokenizer
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification


def small_distilbert(
    tokenizer: str, classes: int = 2, width: int = 64, depth: int = 2, heads: int = 4, max_tokens: int = 128
) -> nn.Module:
    """Build the model.

    Args:
        tokenizer: File of the tokenizer whose ids it takes.
        classes: Number of classes.
        width: Numbers of each token's vector.
        depth: Layers.
        heads: Of each attention.
        max_tokens: Longest text.
    """
    config = DistilBertConfig(
        vocab_size=Tokenizer.from_file(tokenizer).get_vocab_size(),
        max_position_embeddings=max_tokens,
        dim=width,
        n_layers=depth,
        n_heads=heads,
        hidden_dim=2 * width,
        pad_token_id=0,
    )
    config.num_labels = classes
    return DistilBertForSequenceClassification(config)
