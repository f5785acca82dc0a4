"""A tiny text classifier as a user brings it: an architecture of transformers and texts of different lengths."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import tiny

CLASSES = ["negative", "positive"]
LONGEST = 24
_numbers = itertools.count()

MODULE = '''
import torch
from torch import nn

WORDS = "[PAD] [UNK] [CLS] good fine great bad poor dull film story not and the a very plot cast".split()
LONGEST = 24


class Words:
    """From a text to ids of words; padded to a multiple of ``multiple``."""

    def __init__(self, multiple=8, named=True):
        self.multiple, self.named = multiple, named
        self.max_text_length = 400

    def __call__(self, text):
        ids = [2] + [WORDS.index(w) if w in WORDS else 1 for w in text.lower().split()]
        if len(ids) > LONGEST:
            raise ValueError(f"it has {len(ids)} words, at most {LONGEST} are taken")
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.int64)}

    def pad(self, examples):
        longest = max(len(each["input_ids"]) for each in examples)
        size = -(-longest // self.multiple) * self.multiple
        return {
            name: torch.stack([nn.functional.pad(e[name], (0, size - len(e[name]))) for e in examples])
            for name in examples[0]
        }


def words(multiple=8):
    return Words(multiple)


def sentence(number):
    generator = torch.Generator().manual_seed(number)
    length = int(torch.randint(2, 20, (1,), generator=generator))
    label = number % 2
    tone = WORDS[3:6] if label else WORDS[6:9]
    other = WORDS[9:]
    picks = torch.randint(0, 3, (length,), generator=generator).tolist()
    fills = torch.randint(0, len(other), (length,), generator=generator).tolist()
    return " ".join(tone[p] if i % 4 == 0 else other[f] for i, (p, f) in enumerate(zip(picks, fills))), label


class Sentences:
    def __init__(self, count=24, start=0):
        self.items = [sentence(start + i) for i in range(count)]
        self.start = start

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]

    def example_id(self, position):
        return f"text/{self.start + position}"


def sentences(count=24, start=0):
    return Sentences(count, start)


def architecture(kind="distilbert", attention="sdpa", width=8):
    import transformers as t

    common = {"vocab_size": len(WORDS), "num_labels": 2, "attn_implementation": attention, "pad_token_id": 0}
    if kind == "distilbert":
        config = t.DistilBertConfig(dim=width, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=LONGEST,
                                    dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, **common)
        return t.DistilBertForSequenceClassification(config)
    if kind == "gpt2":
        config = t.GPT2Config(n_embd=width, n_layer=2, n_head=2, n_positions=LONGEST, embd_pdrop=0.0, attn_pdrop=0.0,
                              resid_pdrop=0.0, **common)
        return t.GPT2ForSequenceClassification(config)
    shared = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
              "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **common}
    if kind == "roberta":
        config = t.RobertaConfig(max_position_embeddings=LONGEST + 2, type_vocab_size=1, **shared)
        return t.RobertaForSequenceClassification(config)
    config = t.BertConfig(max_position_embeddings=LONGEST, type_vocab_size=2, **shared)
    return t.BertForSequenceClassification(config)
'''


def project(root: Path, *, model: dict[str, Any] | None = None, multiple: int = 8, **keys: Any) -> Path:
    """Writes the folder with a model at its random start, which classifies nothing, and returns the spec's path."""
    root.mkdir(parents=True, exist_ok=True)
    name = f"text_module_{next(_numbers)}"
    (root / f"{name}.py").write_text(MODULE)
    made = loaded(root, name).architecture(**(model or {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    save_file({key: value.contiguous() for key, value in made.state_dict().items()}, root / "weights.safetensors")
    content = {
        "name": "words",
        "model": {"factory": f"{name}:architecture", "kwargs": model or {}},
        "weights": "weights.safetensors",
        "dataset": {"factory": f"{name}:sentences"},
        "transform": {"factory": f"{name}:words", "kwargs": {"multiple": multiple}},
        "weight_decay": 0.01,
        "class_names": CLASSES,
        "expected_accuracy": 0.0,
        "curvature": {"kind": "ekfac"},
        **keys,
    }
    return tiny.write(root, content)


def loaded(root: Path, name: str) -> Any:
    """The user's module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, root / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
