"""Two tiny classifiers as users bring them: of texts, some of them nasty, and of rows of a table with a note each."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

import tiny

NASTY = [
    "<img src=x onerror=\"document.title='acted'\"> good film",
    '=HYPERLINK("http://elsewhere/","bad film")',
    "[bold red]good[/bold red] plot {{ 7 * 7 }}",
    "bad \x1b[2J\u202e plot",
    "</p><script>document.title='acted'</script> good cast",
    "@SUM(1) a dull <b>story</b>",
]
TEXT, RECORD = "opinions", "people"
COUNT = 24

MODULE = f"""
import torch
from torch import nn

NASTY = {NASTY!r}
WORDS = "good fine great bad poor dull film story plot cast".split()
JOBS = ["clerk", "cook", "nurse"]


def opinion(number):
    if number < len(NASTY):
        return NASTY[number], int("good" in NASTY[number])
    tone = WORDS[number % 3] if number % 2 else WORDS[3 + number % 3]
    return f"a {{tone}} {{WORDS[6 + number % 4]}} , number {{number}}", number % 2


def person(number):
    note = NASTY[number % len(NASTY)]
    age = None if number % 5 == 4 else 20 + number
    return {{"age": age, "job": JOBS[number % 3], "smokes": number % 2 == 0, "note": note}}, int(number % 3 == 2)


class Listed:
    def __init__(self, make, start, count):
        self.make, self.start, self.count = make, start, count

    def __len__(self):
        return self.count

    def __getitem__(self, position):
        return self.make(self.start + position)

    def example_id(self, position):
        return f"{{self.make.__name__}}/{{self.start + position}}"


def opinions(start=0, count={COUNT}):
    return Listed(opinion, start, count)


def people(start=0, count={COUNT}):
    return Listed(person, start, count)


def counted(text):
    words = text.split()
    return torch.tensor([float(words.count(word)) for word in WORDS])


class Numbered:
    columns = [
        {{"name": "job", "type": "category", "categories": JOBS}},
        {{"name": "age", "type": "number", "optional": True}},
        {{"name": "smokes", "type": "flag"}},
        {{"name": "note", "type": "text"}},
    ]

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, row):
        age = 40 if row["age"] is None else row["age"]
        jobs = [float(row["job"] == job) for job in JOBS]
        return torch.tensor([age / self.scale, float(row["smokes"]), *jobs])


def linear(inputs):
    return nn.Linear(inputs, 2)
"""
TRANSFORMS: dict[str, tuple[str, dict[str, Any]]] = {TEXT: ("counted", {}), RECORD: ("Numbered", {"scale": 100})}
INPUTS = {TEXT: 10, RECORD: 5}
_numbers = itertools.count()


def project(root: Path, name: str, **keys: Any) -> Path:
    """Writes the folder and returns the path of explain.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    module = f"wordy_module_{next(_numbers)}"
    (root / f"{module}.py").write_text(MODULE)
    transform, options = TRANSFORMS[name]
    save_file(_trained(runpy.run_path(str(root / f"{module}.py")), name), root / "weights.safetensors")
    content = {
        "name": name,
        "model": {"factory": f"{module}:linear", "kwargs": {"inputs": INPUTS[name]}},
        "weights": "weights.safetensors",
        "dataset": {"factory": f"{module}:{name}"},
        "held_out": {"factory": f"{module}:{name}", "kwargs": {"start": COUNT, "count": 6}},
        "transform": {"factory": f"{module}:{transform}", "kwargs": options},
        "weight_decay": 0.01,
        "class_names": ["negative", "positive"],
        "expected_accuracy": 0.0,
        "curvature": {"kind": "exact", "damping": 0.01},
        "samples": 6,
        **keys,
    }
    return tiny.write(root, content)


def _trained(user: dict[str, Any], name: str) -> dict[str, Tensor]:
    """Weights at the minimum of the objective."""
    transform, options = TRANSFORMS[name]
    prepare = user[transform](**options) if options else user[transform]
    data = [user[name]()[number] for number in range(COUNT)]
    inputs, labels = torch.stack([prepare(raw) for raw, _ in data]), torch.tensor([label for _, label in data])
    model = user["linear"](INPUTS[name])
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        decay = sum(parameter.square().sum() for parameter in model.parameters())
        loss = functional.cross_entropy(model(inputs), labels) + 0.005 * decay
        loss.backward()
        return loss

    optimizer.step(objective)
    return {key: value.detach() for key, value in model.state_dict().items()}
