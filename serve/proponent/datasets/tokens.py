"""Texts as a model of transformers reads them: ids of word pieces, by a tokenizer in a file beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional

from proponent.datasets.examples import Examples
from proponent.errors import InvalidInputError, SpecError

FILE = "tokenizer.json"
VOCABULARY = 2_000
"""Word pieces of a tokenizer that is trained here."""
_PAD, _UNKNOWN, _FIRST, _LAST = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


class Tokens:
    """The transform: from a text to ``input_ids`` and ``attention_mask``, [T] int64 each.

    A text is padded to the next multiple of a number of tokens, whatever it is batched with.
    """

    def __init__(self, file: str | Path, max_tokens: int = 128, multiple: int = 16) -> None:
        """Read the tokenizer.

        Args:
            file: A ``tokenizer.json`` of the library tokenizers.
            max_tokens: Longer texts are refused.
            multiple: What lengths are padded to.

        Raises:
            SpecError: The file is not there, or is something else.
        """
        self._tokenizer = _read(file)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._max_tokens = max_tokens
        self._multiple = multiple

    def __call__(self, text: str) -> dict[str, Tensor]:
        """Transform one text.

        Raises:
            InvalidInputError: It has too many tokens.
        """
        ids = self._tokenizer.encode(text).ids
        if len(ids) > self._max_tokens:
            raise InvalidInputError(
                f"text has {len(ids)} tokens, expected at most {self._max_tokens}",
                field="text",
                reason="TEXT_TOO_LONG",
            )
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.int64)}

    def pad(self, examples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """A batch as long as its longest example, rounded up to whole multiples; id 0 and mask 0 are padding."""
        longest = max(len(example["input_ids"]) for example in examples)
        size = -(-longest // self._multiple) * self._multiple
        return {
            name: torch.stack([functional.pad(each[name], (0, size - len(each[name]))) for each in examples])
            for name in examples[0]
        }


def fit_tokenizer(dataset: Examples[str], directory: Path) -> None:
    """Train a tokenizer of word pieces on the texts of a data set and write ``tokenizer.json``."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = [_PAD, _UNKNOWN, _FIRST, _LAST]
    tokenizer.train_from_iterator(
        dataset.inputs, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_FIRST} $A {_LAST}", special_tokens=[(name, special.index(name)) for name in (_FIRST, _LAST)]
    )
    tokenizer.save(str(directory / FILE))


def _read(file: str | Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain exceptions
        raise SpecError(f"{file} is not a tokenizer: {error}", field="transform.kwargs.file") from error
