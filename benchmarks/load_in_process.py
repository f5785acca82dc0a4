"""What an Explainer answers without any service: the other end of ``load.py``'s scale."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from proponent.explainer import Explainer
from proponent.options import ExplainOptions
from proponent.worker.inputs import image_tensor


def in_process(bundle: Path, image: bytes, seconds: float) -> list[dict[str, Any]]:
    """Explanations a second in this process, one by one and in batches, with one thread and with all."""
    explainer = Explainer.load(bundle)
    value = image_tensor(image, explainer.signature, explainer.classifier.transform)
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for count in (1, 8, 16):
            inputs, options, taken = [value] * count, [ExplainOptions()] * count, []
            end = time.perf_counter() + seconds
            while (started := time.perf_counter()) < end:
                explainer.explain(inputs, options)
                taken.append(time.perf_counter() - started)
            middle = statistics.median(taken)
            rows.append({"threads": threads, "batch": count, "per_second": round(count / middle, 1)})
            print(f"in process, {threads} threads, batches of {count:2}: {rows[-1]['per_second']:8.1f}/s")
    return rows
