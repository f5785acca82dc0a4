"""Models of many kinds: gradients and exact curvature against autograd's own, or clear words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import oracle
from captured import capture
from curvatures import dense_ggn
from proponent.attribution.curvature.exact import check_positive, exact_hessian
from proponent.attribution.embedding.base import exact_factors
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.gradients.layers import Layers, find_layers
from proponent.attribution.gradients.soundness import unsound_layers
from proponent.attribution.losses import get_loss
from proponent.attribution.precision import in_double
from proponent.attribution.solvers import hessian_matvec
from proponent.classifier import _load_state
from proponent.errors import CurvatureError, SpecError
from proponent.index.tensor_file import save_tensors

LOSS = get_loss("cross_entropy")
WIDTH, TOKENS, CLASSES = 4, 3, 3


class Net(nn.Module):
    """A stem, something between and a head, on tokens [B, T, i]; what it holds in constants is of ``dtype``."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.between = between
        self.stem, self.inner, self.head = nn.Linear(2, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.layer_norm, self.group_norm = nn.LayerNorm(WIDTH), nn.GroupNorm(2, TOKENS + 1)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 2, 5, dropout=0.0, batch_first=True)
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.constant = (torch.arange(WIDTH * WIDTH, dtype=dtype) / 8 - 1).reshape(WIDTH, WIDTH)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.between(self, self.stem(x).tanh()).mean(dim=1))
        return result


class Cube(torch.autograd.Function):
    """Written before functorch: no setup_context."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 3 * x**2  # type: ignore[no-any-return]


def attended(net: Net, h: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(net.inner(h), h, h)


def depthwise(net: Net, h: Tensor) -> Tensor:
    image = net.depthwise(h.mT[..., None].expand(-1, -1, -1, 2))
    return image.mean(dim=3).mT.tanh()


def grouped_norm(net: Net, h: Tensor) -> Tensor:
    padded = F.pad(h, (0, 0, 0, 1))
    return net.inner(net.group_norm(padded)).tanh()  # type: ignore[no-any-return]


class Reused(Net):
    """Holds one layer under three names."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.blocks = nn.ModuleList([self.inner, self.inner])


def reused(net: Net, h: Tensor) -> Tensor:
    assert isinstance(net, Reused)
    for block in net.blocks:
        h = block(h).tanh()
    return h


def by_value(net: Net, h: Tensor) -> Tensor:
    return net.inner(h).tanh() if float(h.detach().sum()) != 1e9 else h  # type: ignore[no-any-return]


KINDS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "attention": attended,
    "multi-head attention": lambda net, h: net.attention(net.inner(h), h, h, need_weights=False)[0],
    "encoder layer": lambda net, h: net.encoder(net.inner(h)),
    "layer norm": lambda net, h: net.inner(net.layer_norm(h)).tanh(),
    "group norm": grouped_norm,
    "depthwise": depthwise,
    "residual": lambda net, h: h + net.inner(h.tanh()).tanh(),
    "one layer twice": reused,
    "functional twice": lambda net, h: net.inner(net.inner(h).tanh()).tanh(),
    "constant": lambda net, h: (net.inner(h) @ net.constant).tanh(),
    "made in the forward": lambda net, h: (net.inner(h) @ torch.ones(WIDTH, WIDTH, dtype=net.dtype)).tanh(),
    "written in the forward": lambda net, h: net.inner(h * filled(net)).tanh(),
    "cast": lambda net, h: net.inner(h.to(net.dtype) @ net.constant).tanh(),
    "old function": lambda net, h: Cube.apply(net.inner(h)) if net.dtype == torch.float32 else net.inner(h) ** 3,
    "control flow": by_value,
}


def filled(net: Net) -> Tensor:
    mask = torch.zeros(WIDTH, dtype=net.dtype)
    mask[0] = 0.25
    return mask + 1


def built(kind: str, dtype: torch.dtype) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return (Reused if KINDS[kind] is reused else Net)(KINDS[kind], dtype).to(torch.float32).eval()


def data(count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, TOKENS, 2, generator=generator), torch.arange(count) % CLASSES


@dataclass(frozen=True)
class Truth:
    """Of one model in float64 throughout: gradient summed over the examples [P] and Hessian [P, P]."""

    gradient: Tensor
    hessian: Tensor

    @classmethod
    def of(cls, kind: str, layers: Layers) -> Truth:
        twin, (inputs, labels) = built(kind, torch.float64).double(), data()
        order = oracle.order(twin, {name: shape.groups for name, shape in layers.items()})
        names = list(dict.fromkeys(name for name, _ in order))
        total = LOSS.per_example(twin(inputs.double()), labels).sum()
        found = torch.autograd.grad(total, [twin.get_parameter(name) for name in names], materialize_grads=True)
        gradient = oracle.flat({n: g[None] for n, g in zip(names, found, strict=True)}, order)[0]
        with sdpa_kernel(SDPBackend.MATH):
            hessian = oracle.objective_hessian(twin, LOSS.per_example, inputs.double(), labels, order)
        return cls(gradient, hessian)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_exact_curvature_are_autograds(kind: str) -> None:
    model, (inputs, labels) = built(kind, torch.float32), data()
    before = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    layers = {n: s for n, s in find_layers(model).items() if n in ("stem", "inner", "head", "depthwise")}
    truth, batches = Truth.of(kind, layers), [(inputs, labels, labels)]
    assert float(truth.hessian.norm()) > 1e-3
    assert unsound_layers(model, layers, inputs, torch.randn(5, CLASSES)) == {}
    found = exact_hessian(model, LOSS, batches, layers)
    torch.testing.assert_close(found, truth.hessian, rtol=1e-9, atol=1e-12)
    assert dense_ggn(model, LOSS, batches, layers).shape == truth.hessian.shape
    gradients = capture(in_double(model), inputs, lambda z: LOSS.output_gradient(z, labels), layers)[1]
    torch.testing.assert_close(flat_gradients(gradients).sum(dim=0), truth.gradient, rtol=1e-9, atol=1e-12)
    after = {name: (id(p), p.detach()) for name, p in model.named_parameters()}
    assert {n: i for n, (i, _) in after.items()} == {n: i for n, (i, _) in before.items()}
    torch.testing.assert_close({n: v for n, (_, v) in after.items()}, {n: v for n, (_, v) in before.items()})


@pytest.mark.parametrize("kind", ["attention", "encoder layer", "constant"])
def test_products_of_the_reference_solvers_are_the_same(kind: str) -> None:
    model, (inputs, labels) = built(kind, torch.float32), data()
    layers = find_layers(model, ["stem", "inner", "head"])
    truth = Truth.of(kind, layers).hessian
    vector = torch.linspace(-1, 1, len(truth), dtype=torch.float64)
    product = hessian_matvec(model, LOSS, [(inputs, labels, labels)], layers)(vector)
    torch.testing.assert_close(product, truth @ vector, rtol=1e-8, atol=1e-10)


def test_a_model_without_a_second_derivative_is_refused_with_what_to_do() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 2

    model = Net(lambda net, h: Once.apply(net.inner(h)).tanh(), torch.float32).eval()
    inputs, labels = data()
    with pytest.raises(
        CurvatureError, match=r"second derivative .* is not that of its gradient.*curvature\.kind ekfac"
    ):
        exact_hessian(model, LOSS, [(inputs, labels, labels)], find_layers(model, ["stem", "inner"]))


def test_a_model_that_fails_in_double_precision_is_refused_with_what_to_do() -> None:
    def between(net: Net, h: Tensor) -> Tensor:
        return torch.linalg.cholesky(net.inner(h)) if net.head.weight.dtype == torch.float64 else h

    model, (inputs, labels) = Net(between, torch.float32).eval(), data()
    with pytest.raises(SpecError, match=r"does not run in float64 .*: \w+Error: .*use curvature\.kind ekfac"):
        exact_hessian(model, LOSS, [(inputs, labels, labels)], find_layers(model, ["stem", "inner"]))


def test_a_model_that_cannot_be_copied_is_refused_with_what_to_do() -> None:
    model = Net(lambda net, h: h, torch.float32)
    model.rows = (row for row in ())
    with pytest.raises(SpecError, match=r"a copy of the model in float64, which fails: TypeError.*ekfac"):
        in_double(model)


def test_attention_is_left_with_the_kernels_that_it_had() -> None:
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    inputs, labels = data()
    exact_hessian(
        built("attention", torch.float32),
        LOSS,
        [(inputs, labels, labels)],
        find_layers(built("attention", torch.float32), ["head"]),
    )
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before


# Words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "bce", "hinge"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 1), (2, 3, 4, 4)])
def test_outputs_of_more_dimensions_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=r"one row of outputs for each example, \[B, C\], got \[2, "):
        get_loss(name).check_outputs(torch.zeros(shape))


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "hinge"])
def test_outputs_that_are_no_real_numbers_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"floating-point outputs, got torch\.int64"):
        get_loss(name).check_outputs(torch.zeros(2, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("spectrum", "damping", "weight_decay", "expected"),
    [
        ([0.0, 1.0], 0.0, 0.0, r"is singular: .*Set weight_decay or damping > 0"),
        ([-1e-3, 1.0], 0.0, 0.1, r"is indefinite: .*Set weight_decay or damping > 0"),
        ([1e-6, 1e6], 0.0, 1e-6, r"is ill-conditioned: .*Scale the inputs .* set damping to 0\.0001 or more"),
        ([-1e-10, 1e6], 1e-7, 0.0, r"is ill-conditioned: .*Scale the inputs"),
    ],
)
def test_a_spectrum_is_called_what_it_is(
    spectrum: list[float], damping: float, weight_decay: float, expected: str
) -> None:
    with pytest.raises(CurvatureError, match=expected):
        check_positive(torch.tensor(spectrum, dtype=torch.float64), damping, weight_decay)


# Tied weights -------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.two.weight = self.one.weight


def test_tied_weights_are_written_and_read_back_tied(tmp_path: Any) -> None:
    model, path = Tied(), tmp_path / "weights.safetensors"
    save_tensors(model.state_dict(), path)
    other = Tied()
    _load_state(other, load_file(path), path)
    torch.testing.assert_close(other.state_dict(), model.state_dict())
    assert other.two.weight is other.one.weight


def test_files_that_hold_a_tied_weight_once_are_read(tmp_path: Any) -> None:
    model, path = Tied(), tmp_path / "weights.safetensors"
    save_model(model, str(path))
    assert len(load_file(path)) == len(model.state_dict()) - 1
    other = Tied()
    _load_state(other, load_file(path), path)
    torch.testing.assert_close(other.state_dict(), model.state_dict())


def test_the_inverse_is_kept_in_double_precision() -> None:
    assert exact_factors(torch.ones(2).double(), torch.eye(2).double(), 0.0, {}).whitening.dtype == torch.float64
