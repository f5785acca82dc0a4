"""All that is measured on a GPU, in one command of under 8 minutes: ``benchmarks/gpu``.

1. The CUDA tests.
2. Scores of queries embedded on the device, by a recording, against the CPU's, relative to the norms.
3. A rebuild of ResNet-50 at 224 pixels (untrained, drawn shapes: the cost depends on neither), and its pass over the
   rows beside a plain forward and backward of as many images.
4. Predict and Explain of that bundle, images a second at batches of 1, 8 and 64, beside forward and backward.
5. The scan of N = 1M and 10M rows of 768 numbers against the card's own read bandwidth, measured on as many bytes.
6. FAISS's brute force on the GPU beside the scan (`scan_kernels`).

A part is not begun once the time is nearly up, and what was left out is named. Without a GPU nothing is measured;
``--device cpu --small`` tries the command itself with small numbers. Run: ``benchmarks/gpu [--out FILE]``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import scan_kernels
import torch
from safetensors.torch import save_file
from scan import queries
from timing import rebuild_stages
from torch import Tensor
from torch.nn import functional

from proponent.classifier import import_attribute
from proponent.cuda_graphs import WAITED
from proponent.explainer import Explainer
from proponent.explainer.query import CHECKED, EmbeddedQuery
from proponent.index.row_store import place_rows
from proponent.index.rows import InfluenceIndex
from proponent.index.scan import Query
from proponent.index.search import search
from proponent.index.searchable import RowScales
from proponent.index.store import Store
from proponent.options import ExplainOptions, Measure, Target
from proponent.rebuild.pipeline import RebuildOptions
from proponent.single_precision import single_precision
from proponent.spec import ModelSpec
from proponent.stages import Stopwatch

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "gpu.json"
TIME_S, LAST_START_S = 480, 400
AGREEMENT, EXPLAIN_TARGET, SCAN_TARGET = 2e-3, 1.6, 1.3


@dataclass(frozen=True)
class Sizes:
    """What is measured, and how large."""

    model: dict[str, Any]
    pixels: int
    images: int
    fitted: int
    embedding: int
    subspace: int
    batches: tuple[int, ...]
    rows: tuple[int, ...]
    row_size: int
    kernel_rows: int
    repeats: int


FULL = Sizes(
    {"factory": "proponent.models.resnet50:resnet50", "kwargs": {"classes": 4}},
    pixels=224,
    images=1024,
    fitted=768,
    embedding=768,
    subspace=32_768,
    batches=(1, 8, 64),
    rows=(1_000_000, 10_000_000),
    row_size=768,
    kernel_rows=1_000_000,
    repeats=15,
)
SMALL = Sizes(
    {"factory": "proponent.models.resnet:resnet20", "kwargs": {"classes": 4}},
    pixels=16,
    images=48,
    fitted=32,
    embedding=16,
    subspace=1024,
    batches=(1, 4),
    rows=(5_000, 20_000),
    row_size=64,
    kernel_rows=2_000,
    repeats=2,
)


class Bench:
    """The parts, for one device; each returns figures."""

    def __init__(self, device: torch.device, sizes: Sizes, work: Path) -> None:
        self.device, self.sizes, self.work = device, sizes, work

    def seconds(self, run: Callable[[], object]) -> float:
        """Median wall time of a call, once the device has finished; the first call is not counted."""
        times = []
        for _ in range(self.sizes.repeats + 1):
            start = self._now()
            run()
            times.append(self._now() - start)
        return statistics.median(times[1:])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def tests(self) -> dict[str, Any]:
        """How many of the tests that need CUDA passed, failed and were skipped."""
        files = [str(path) for path in sorted((ROOT / "tests").glob("test_cuda*.py"))]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        counts = {
            word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)
        }
        if done.returncode not in (0, 1):
            raise RuntimeError(f"the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return {"passed": 0, "failed": 0, "skipped": 0, **counts}

    def rebuild(self) -> dict[str, Any]:
        """Stages of a rebuild, and its pass over the rows beside forward and backward."""
        stages = rebuild_stages(self.spec(), self.work, RebuildOptions(quiet=True))
        explainer, inputs = self.explainer(), self.inputs(max(self.sizes.batches))
        plain = self.seconds(lambda: self.forward_backward(explainer, inputs)) / len(inputs)
        a_row = stages["project"].wall / self.sizes.images
        return {
            "stages_s": {name: round(value.wall, 3) for name, value in stages.items()},
            "pass_per_row_ms": 1e3 * a_row,
            "forward_backward_per_row_ms": 1e3 * plain,
            "ratio": a_row / plain,
        }

    def spec(self) -> ModelSpec:
        """The model untrained, on drawn shapes."""
        weights = self.work / "weights.safetensors"
        if not weights.exists():
            torch.manual_seed(0)
            model = import_attribute(self.sizes.model["factory"])(**self.sizes.model["kwargs"])
            save_file(model.state_dict(), weights)
        shapes = {"factory": "proponent.datasets.synthetic:shapes"}
        kwargs = {"count": self.sizes.images, "size": self.sizes.pixels}
        curvature = {
            "kind": "ekfac",
            "fit_examples": self.sizes.fitted,
            "embedding_size": self.sizes.embedding,
            "subspace_size": self.sizes.subspace,
        }
        return ModelSpec.model_validate(
            {
                "name": "bench",
                "model": self.sizes.model,
                "weights": str(weights),
                "dataset": {**shapes, "kwargs": kwargs},
                "transform": {"factory": "proponent.datasets.transforms:pixels"},
                "class_names": ["disc", "square", "triangle", "cross"],
                "expected_accuracy": 0,
                "device": str(self.device),
                "curvature": curvature,
            }
        )

    def explainer(self, device: torch.device | None = None) -> Explainer:
        """Of the bundle that ``rebuild`` wrote."""
        return Explainer.load(Store(self.work / "store").current("bench"), device=device or self.device)

    def inputs(self, count: int, seed: int = 1) -> list[Tensor]:
        """Noise, as the model takes it."""
        generator = torch.Generator().manual_seed(seed)
        shape = (count, 3, self.sizes.pixels, self.sizes.pixels)
        return list(torch.rand(shape, generator=generator))

    def record(self, run: Callable[[list[Tensor]], object], count: int) -> None:
        """Calls with other inputs each time, until what follows is replayed."""
        for seed in range(WAITED + CHECKED if self.device.type == "cuda" else 0):
            run(self.inputs(count, seed + 2))

    def forward_backward(self, explainer: Explainer, inputs: list[Tensor]) -> None:
        """Forward and backward with the gradients of all parameters, in the precision of an explanation."""
        of = explainer.classifier
        with single_precision():
            outputs = of.model(torch.stack(inputs).to(self.device))
            loss = of.loss.per_example(outputs, outputs.detach().argmax(1)).sum()
            torch.autograd.grad(loss, [p for p in of.model.parameters() if p.requires_grad], allow_unused=True)

    def agreement(self) -> dict[str, Any]:
        """Largest difference of a score from the CPU's, by the norms of query and row."""
        inputs = self.inputs(4)
        scores = []
        for device in (self.device, torch.device("cpu")):
            explainer = self.explainer(device)
            self.record(lambda some, of=explainer: of.embed(some, [Target(class_id=0)] * len(some), Stopwatch()), 4)
            found = explainer.embed(inputs, [Target(class_id=0)] * len(inputs), Stopwatch())
            asked = [query for query in found if isinstance(query, EmbeddedQuery)]
            directions = torch.stack([query.direction for query in asked])
            products = explainer.index.products(directions).double().cpu()
            scores.append(products * torch.tensor([query.norm for query in asked], dtype=torch.float64)[:, None])
            norms = torch.tensor([query.norm for query in asked], dtype=torch.float64)
        error = float(((scores[0] - scores[1]) / norms[:, None]).abs().max())
        return {"error_by_norms": error, "target": AGREEMENT, "kept": error <= AGREEMENT}

    def rates(self) -> list[dict[str, Any]]:
        """Images a second by batch."""
        explainer, options = self.explainer(), ExplainOptions()
        rows = []
        for batch in self.sizes.batches:
            inputs = self.inputs(batch)
            self.record(lambda some: explainer.explain(some, [options] * len(some)), batch)
            runs = {
                "predict": lambda inputs=inputs: explainer.predict(inputs),
                "forward_backward": lambda inputs=inputs: self.forward_backward(explainer, inputs),
                "explain": lambda inputs=inputs: explainer.explain(inputs, [options] * len(inputs)),
            }
            taken = {name: self.seconds(run) for name, run in runs.items()}
            ratio = taken["explain"] / taken["forward_backward"]
            rates = {f"{name}_per_s": batch / value for name, value in taken.items()}
            rows.append({"batch": batch, **rates, "explain_ratio": ratio, "target": EXPLAIN_TARGET})
        return rows

    def scans(self) -> list[dict[str, Any]]:
        """The scan of one query and of eight, by N, against reading as many bytes."""
        return [self.scan(count) for count in self.sizes.rows]

    def scan(self, count: int) -> dict[str, Any]:
        """One N: the rows lie on the device; those of a card that cannot hold them are streamed, and said to be."""
        host = torch.empty(count, self.sizes.row_size, dtype=torch.float16)
        for start in range(0, count, 1 << 17):
            block = torch.randn(min(1 << 17, count - start), self.sizes.row_size, device=self.device)
            host[start : start + len(block)] = functional.normalize(block, dim=1).half()
        rows, size = place_rows(host, self.device), host.nbytes
        index = InfluenceIndex(None, rows, _scales(count), self.sizes.row_size)
        asked = [queries(self.sizes.row_size, batch) for batch in (1, 8)]
        searches = [self.seconds(partial(search, index, some, tuple(Measure))) for some in asked]
        passes = [self.seconds(partial(_pass, index, some)) for some in asked]
        placed = type(rows).__name__
        del rows, index, host  # room for as many bytes, to be read
        buffer = torch.zeros(size // 8, dtype=torch.int64, device=self.device)
        floor = self.seconds(buffer.sum)
        return {
            "rows": count,
            "K": self.sizes.row_size,
            "placed": placed,
            "floor_ms": 1e3 * floor,
            "bandwidth_gb_s": size / floor / 1e9,
            "scan_one_query_ms": 1e3 * passes[0],
            "scan_eight_queries_ms": 1e3 * passes[1],
            "search_one_query_ms": 1e3 * searches[0],
            "search_eight_queries_ms": 1e3 * searches[1],
            "ratio": passes[0] / floor,
            "target": SCAN_TARGET,
        }

    def kernels(self) -> list[dict[str, Any]]:
        """FAISS's kernels beside the scan."""
        return scan_kernels.run(self.device, self.sizes.kernel_rows, self.sizes.row_size, self.sizes.repeats)


def _pass(index: InfluenceIndex, asked: list[Query]) -> None:
    """From queries to candidates with exact products, on the host; a search then ranks and checks them."""
    directions = torch.stack([query.direction for query in asked])
    index.scan(directions, [query.k for query in asked], [None] * len(asked), tuple(Measure)).read()


def _scales(count: int) -> RowScales:
    """Norms over four orders of magnitude, as those of a trained network."""
    norms = torch.logspace(-3, 1, count, dtype=torch.float64)[torch.randperm(count)]
    ratio = 0.5 + 0.5 * torch.rand(count, dtype=torch.float64)
    columns = {name: norms for name in RowScales.__dataclass_fields__}
    able = torch.ones(count, dtype=torch.bool)
    return RowScales(**columns | {"relative_theta": ratio, "relative_l": ratio, "has_direction": able})


def measure(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """All parts, as long as there is time; what fails is told in its place, and the others go on."""
    began, found = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Bench(device, sizes, Path(work))
        parts = (bench.tests, bench.rebuild, bench.agreement, bench.rates, bench.scans, bench.kernels)
        for part in parts:
            start = time.perf_counter()
            if start - began > LAST_START_S:
                found[part.__name__] = {"left_out": f"after {LAST_START_S} s no part is begun"}
                continue
            try:
                value = part()
            except Exception as error:
                value = {"error": f"{type(error).__name__}: {error}"}
            found[part.__name__] = value
            print(f"{part.__name__} ({time.perf_counter() - start:.0f} s): {json.dumps(value)}", flush=True)
    found["seconds"] = time.perf_counter() - began
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--small", action="store_true", help="small numbers, to try the command")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA GPU was found on this machine: nothing was measured "
            "(--device cpu --small tries the command itself)",
            file=sys.stderr,
        )
        return 1
    is_cuda = options.device.type == "cuda"
    name = torch.cuda.get_device_name(options.device) if is_cuda else "a processor"
    versions = {package: importlib.metadata.version(package) for package in ("torch", "faiss-gpu")}
    found = {"card": name, **versions, **measure(options.device, SMALL if options.small else FULL)}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    failed = [part for part, value in found.items() if isinstance(value, dict) and {"error", "left_out"} & {*value}]
    print(f"{name}: {found['seconds']:.0f} s of at most {TIME_S}" + (f"; not measured: {failed}" if failed else ""))
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
