"""What a service needs, by training examples N, numbers K a row and parameters P: memory, latency and processor time.

Small runs, each in a process of its own with one thread, and straight lines through them: the time of a search over
N x K, memory and gradients over P, and what gateway, Java and workers of a live service take. Times are processor
time, which other work on the machine disturbs less than wall time; with one thread on an idle machine both agree.

Run on a quiet machine (about 5 minutes): ``python benchmarks/sizing.py``. Writes results/sizing.json and prints the
page made of it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from render import page
from sizing_page import BATCH, EXAMPLES, fits

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "sizing.json"
PIXELS = 32


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        searches: Rows and numbers a row of the searches.
        hidden: Widths of the models' dense layers.
        repeats: Runs of which the median is taken.
        calls: Calls of the live service, of each kind.
    """

    searches: Sequence[tuple[int, int]]
    hidden: Sequence[int]
    repeats: int
    calls: int


WHOLE = Plan([(n, k) for k in (256, 768) for n in (20_000, 80_000, 240_000)], (8, 64, 512, 2048), 15, 100)
QUICK = Plan([(2_000, 64), (8_000, 64), (8_000, 128)], (8, 256), 3, 10)


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median processor time of a run, after one that warms up."""
    run()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure_search(plan: Plan, rows: int, size: int) -> dict[str, float]:
    """Searches for all measures: one query, and sixteen at once."""
    import scan
    import torch

    from proponent.index.search import search
    from proponent.options import Measure

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        index = scan.open_index(Path(work), rows, size)
        stored = sum((Path(work) / name).stat().st_size for name in ("rows", "scales"))
        found = {"rows": rows, "size": size, "bytes_per_row": stored / rows}
        for count in (1, BATCH):
            queries = scan.queries(size, count)
            found[f"search_{count}_s"] = cpu_seconds(
                lambda asked=queries: search(index, asked, tuple(Measure)), plan.repeats
            )
    return found


def build(work: Path, hidden: int) -> Path:
    """A bundle of an untrained network, whose cost is that of a trained one; returns its store."""
    import torch
    from safetensors.torch import save_file

    from proponent.index.store import Store
    from proponent.models.small_cnn import SmallCNN
    from proponent.rebuild.pipeline import RebuildOptions, rebuild
    from proponent.spec import load_spec

    torch.manual_seed(0)
    kwargs = {"channels": 3, "classes": 4, "size": PIXELS, "hidden": hidden}
    save_file(SmallCNN(**kwargs).state_dict(), str(work / "weights.safetensors"))
    spec = {
        "name": "sized",
        "model": {"factory": "proponent.models.small_cnn:SmallCNN", "kwargs": kwargs},
        "weights": "weights.safetensors",
        "dataset": {"factory": "proponent.datasets.synthetic:shapes", "kwargs": {"count": EXAMPLES, "size": PIXELS}},
        "transform": {"factory": "proponent.datasets.transforms:pixels"},
        "loss": "cross_entropy",
        "weight_decay": 0.001,
        "expected_accuracy": 0.0,
        "class_names": ["disc", "square", "triangle", "cross"],
        "curvature": {"kind": "ekfac", "embedding_size": 64, "subspace_size": 256, "fit_examples": 100},
    }
    (work / "explain.yaml").write_text(json.dumps(spec))
    rebuild(load_spec(work / "explain.yaml"), Store(work / "store"), RebuildOptions(quiet=True))
    return work / "store"


def measure_model(plan: Plan, hidden: int) -> dict[str, float]:
    """Builds a bundle, then explains in a process that has done nothing else, as a worker has."""
    with tempfile.TemporaryDirectory() as work:
        store = build(Path(work), hidden)
        return child(plan, "explain", str(store))


def measure_explanations(plan: Plan, store: str) -> dict[str, float]:
    """Memory of a worker, and processor time of a prediction and of an explanation, alone and in a batch."""
    import torch

    from proponent.attribution.gradients.layers import num_parameters
    from proponent.explainer import Explainer
    from proponent.index.lifecycle import size_of
    from proponent.index.store import Store
    from proponent.options import ExplainOptions

    torch.set_num_threads(1)
    bundle = Store(store).current("sized")
    explainer = Explainer.load(bundle)
    inputs = list(torch.rand(BATCH, 3, PIXELS, PIXELS))
    options = [ExplainOptions()] * BATCH
    return {
        "parameters": num_parameters(explainer.classifier.find_layers()),
        "explain_s": cpu_seconds(lambda: explainer.explain(inputs[:1], options[:1]), plan.repeats),
        "explain_batch_s": cpu_seconds(lambda: explainer.explain(inputs, options), plan.repeats) / BATCH,
        "predict_s": cpu_seconds(lambda: explainer.predict(inputs[:1]), plan.repeats),
        "resident_bytes": resident(),
        "bundle_bytes": size_of(bundle),
        "catalog_bytes_per_example": (bundle / "catalog.sqlite").stat().st_size / EXAMPLES,
    }


def measure_service(plan: Plan) -> dict[str, float]:
    """A live service with the smallest model: resident memory, and processor time of calls one after the other."""
    with tempfile.TemporaryDirectory() as work, serving(build(Path(work), plan.hidden[0])) as (process, address):
        import grpc

        from proponent.v1 import explanation_pb2 as pb
        from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub

        tensor = pb.Tensor(shape=[3, PIXELS, PIXELS], dtype="float32", data=bytes(4 * 3 * PIXELS * PIXELS))
        with grpc.insecure_channel(address) as channel:
            stub: Any = ExplanationServiceStub(channel)
            calls = {
                "explain": lambda: stub.Explain(pb.ExplainRequest(model="sized", tensor=tensor)),
                "predict": lambda: stub.Predict(pb.PredictRequest(model="sized", tensor=tensor)),
            }
            found: dict[str, float] = {}
            for name, call in calls.items():
                call()
                before = spent(process)
                for _ in range(plan.calls):
                    call()
                after = spent(process)
                found |= {f"{name}_{part}_s": (after[part] - before[part]) / plan.calls for part in after}
        return found | {f"{part}_bytes": size for part, size in memory(process).items()}


@contextmanager
def serving(store: Path) -> Iterator[tuple[Any, str]]:
    """The gateway's process, and where it answers, once it is ready."""
    import psutil

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    line = [sys.executable, "-m", "proponent.cli", "serve", str(store), "--grpc-address", address]
    line += ["--http-address", "127.0.0.1:0", "--drain-delay", "0", "--cores", "1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().startswith("ready ")
            yield psutil.Process(process.pid), address
        finally:
            process.terminate()
            process.wait(60)


def parts(process: Any) -> dict[str, list[Any]]:
    """The processes of a service by what they are."""
    found: dict[str, list[Any]] = {"gateway": [process], "java": [], "workers": []}
    for below in process.children(recursive=True):
        words = " ".join(below.cmdline())
        if "watchdog.py" in words:
            continue
        if "model_service_worker" in words:
            found["workers"].append(below)
        elif "java" in words:
            found["java"].append(below)
    return found


def spent(process: Any) -> dict[str, float]:
    return {part: sum(sum(each.cpu_times()[:2]) for each in processes) for part, processes in parts(process).items()}


def memory(process: Any) -> dict[str, float]:
    """Resident bytes; of workers, the mean."""
    sizes = {part: [each.memory_info().rss for each in processes] for part, processes in parts(process).items()}
    return {part: statistics.mean(found) for part, found in sizes.items()}


def child(plan: Plan, *arguments: object) -> dict[str, float]:
    """The measurement of a process of its own, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    quick = ["--quick"] if plan is QUICK else []
    line = [sys.executable, __file__, *quick, "--one", *map(str, arguments)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="less than a minute, whose figures say little")
    parser.add_argument("--one", nargs="+", metavar="WORD", help="one measurement (used by the script itself)")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else WHOLE
    if arguments.one:
        print(json.dumps(measure_one(plan, *arguments.one)))
        return
    results = measured(plan)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(page("sizing.md", {"sizing": results}))


def measured(plan: Plan) -> dict[str, Any]:
    """All that the page is made of."""
    searches = [child(plan, "search", *each) for each in plan.searches]
    models = [measure_model(plan, hidden) for hidden in plan.hidden]
    return {
        "machine": f"{os.cpu_count()} cores, torch {version('torch')}",
        "searches": searches,
        "models": models,
        "fits": fits(searches, models),
        "service": measure_service(plan),
    }


def measure_one(plan: Plan, kind: str, *words: str) -> dict[str, float]:
    """What a process of its own measures."""
    if kind == "search":
        return measure_search(plan, *map(int, words))
    return measure_explanations(plan, *words)


if __name__ == "__main__":
    main()
