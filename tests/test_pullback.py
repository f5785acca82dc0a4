"""Vector-Jacobian products are those of autograd, and a worker that takes them starts without SymPy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from proponent.attribution.gradients.pullback import pulled_back
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec

WORKER = """
import logging, sys
from proponent.worker.starting import started_worker

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
started_worker({"bundle": sys.argv[1]}, None)
print([name for name in ("sympy", "torch._dynamo") if name in sys.modules])
"""


def graph(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, outputs that depend on them, a tensor that they do not depend on, and a gradient at the outputs."""
    generator = torch.Generator().manual_seed(0)
    inputs, other = (torch.randn(4, 3, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    seed = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    return inputs, (inputs.tanh() @ inputs.exp()[:3, :2]), other, seed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_it_is_autograds_product_bit_by_bit(dtype: torch.dtype, mode: type) -> None:
    inputs, outputs, other, seed = graph(dtype)
    expected = torch.autograd.grad(outputs, inputs, seed.to(dtype), retain_graph=True)[0]
    with mode():
        found = [pulled_back(outputs, [inputs, other], seed.clone(), retain_graph=True) for _ in range(2)]
    assert [pair[1] for pair in found] == [None, None]
    assert all(torch.equal(pair[0], expected) for pair in found)


def test_a_seed_that_depends_on_the_outputs_is_differentiated_only_afterwards() -> None:
    inputs, outputs, _, _ = graph(torch.float64)
    seed = outputs.square()
    (first,) = pulled_back(outputs, [inputs], seed, create_graph=True)
    (expected,) = torch.autograd.grad(outputs, inputs, seed, create_graph=True)
    assert torch.equal(first, expected)
    gradients = (torch.autograd.grad(each.sin().sum(), inputs, retain_graph=True)[0] for each in (first, expected))
    assert torch.allclose(*gradients, rtol=1e-12)


def test_a_gradient_of_another_shape_is_refused() -> None:
    inputs, outputs, _, seed = graph(torch.float64)
    with pytest.raises(RuntimeError, match="invalid gradient"):
        pulled_back(outputs, [inputs], seed[:, :1].expand(4, 5))


def test_a_worker_that_has_explained_has_imported_neither_sympy_nor_the_compiler(tmp_path: Path) -> None:
    """They would take two seconds and 150 MB of every worker."""
    path, store = tiny.project(tmp_path / "project", count=12), Store(tmp_path / "store")
    bundle = rebuild(load_spec(path), store, RebuildOptions(quiet=True))
    done = subprocess.run([sys.executable, "-c", WORKER, str(bundle)], capture_output=True, text=True)
    *told, imported = done.stdout.splitlines()
    assert imported == "[]", done.stdout + done.stderr
    assert "warmed up" in told[-1], done.stdout
