"""Every family of layers: per-example gradients equal vmap(grad), and all that is computed from them fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import prune, weight_norm

import oracle
from captured import CROSS_ENTROPY, TIGHT, check_against_oracle
from proponent.attribution.curvature.exact import exact_hessian
from proponent.attribution.gradients.families import FAMILIES, family_of
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import (
    find_layers,
    flatten_parameters,
    num_parameters,
    uncovered,
    unflatten_parameters,
)
from proponent.attribution.gradients.left_out import left_out_modules
from proponent.attribution.gradients.soundness import unsound_layers

BATCH = 3
SEEDS = st.integers(0, 1000)
SOME: Any = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
FEW: Any = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


class Pooled(nn.Module):
    """Something before a layer, the layer, called once or more, and a head over the mean of what it gives."""

    def __init__(self, before: nn.Module, layer: nn.Module, width: int, times: int = 1, dim: int = 1) -> None:
        super().__init__()
        self.before, self.layer, self.head = before, layer, nn.Linear(width, 3)
        self.times, self.dim = times, dim

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for _ in range(self.times):
            x = self.layer(x).tanh()
        result: Tensor = self.head(x.movedim(self.dim, 1).flatten(2).mean(dim=2) if x.ndim > 2 else x)
        return result


def check(model: nn.Module, inputs: Tensor, seed: int) -> LayerGradients:
    """Random parameters; gradients as vmap(grad), and everything that is made of them."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2, generator=generator)
    labels = torch.randint(3, (len(inputs),), generator=generator)
    gradients = check_against_oracle(model, inputs, labels, FAMILIES)
    layers = find_layers(model, families=FAMILIES)
    assert unsound_layers(model, layers, inputs, torch.randn(len(inputs), 3, generator=generator)) == {}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert num_parameters(layers) + sum(uncovered(model, layers).values()) == trained
    parameters = dict(model.named_parameters())
    back = unflatten_parameters(flatten_parameters(parameters, layers), layers)
    torch.testing.assert_close(back, {name: parameters[name].detach() for name in back}, rtol=0, atol=0)
    for gradient in gradients.values():
        check_made_of(gradient, generator)
    return gradients


def check_made_of(gradient: Any, generator: torch.Generator) -> None:
    """Sums, norms, moments and projections are those of the dense gradients."""
    dense, shape = gradient.dense(), gradient.shape
    total, squares = gradient.sum_and_squares()
    torch.testing.assert_close(total, dense.sum(dim=0), **TIGHT)
    torch.testing.assert_close(squares, dense.square().flatten(1).sum(dim=1), **TIGHT)
    rows = gradient.inputs
    torch.testing.assert_close(gradient.input_moment(), (rows.mT @ rows).sum(dim=0), **TIGHT)
    torch.testing.assert_close(gradient.deltas.mT @ rows, dense, **TIGHT)
    for r, s in ((1, 2), (9, 1)):
        left = torch.randn(shape.groups, shape.out, r, generator=generator).double()
        right = torch.randn(shape.groups, shape.inputs, s, generator=generator).double()
        expected = torch.einsum("gor,bgoi,gis->bgrs", left, dense, right)
        torch.testing.assert_close(gradient.project(left, right), expected, rtol=1e-8, atol=1e-10)
    some = gradient.examples(slice(1, 2))
    torch.testing.assert_close(some.dense(), dense[1:2], **TIGHT)


# Convolutions -------------------------------------------------------------------------------------------------

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIDES = {1: (9,), 2: (5, 4), 3: (4, 3, 5)}


def each(draw: st.DrawFn, dimensions: int, least: int, most: int) -> tuple[int, ...]:
    return draw(st.tuples(*[st.integers(least, most)] * dimensions))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, int, int]:
    dimensions, groups = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2, 4]))
    padding: Any = draw(st.sampled_from(["same", "valid", 0, 1]))
    width = groups * draw(st.integers(1, 2))
    layer = CONVOLUTIONS[dimensions](
        4,
        width,
        each(draw, dimensions, 1, 3),
        stride=1 if padding == "same" else each(draw, dimensions, 1, 2),
        padding=padding,
        dilation=1 if dimensions == 3 else draw(st.integers(1, 2)),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )
    return Pooled(CONVOLUTIONS[dimensions](2, 4, 1), layer, width), dimensions, groups


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(convolutions(), SEEDS)
@SOME
def test_convolutions_of_one_and_three_dimensions(case: tuple[nn.Module, int, int], seed: int) -> None:
    model, dimensions, groups = case
    gradients = check(model, torch.randn(BATCH, 2, *SIDES[dimensions]).double(), seed)
    assert gradients["layer"].shape.groups == groups


@st.composite
def transposed(draw: st.DrawFn) -> tuple[nn.Module, int]:
    dimensions, groups = draw(st.sampled_from([1, 1, 2, 2, 3])), draw(st.sampled_from([1, 2]))
    stride = each(draw, dimensions, 1, 3)
    kernel = each(draw, dimensions, 1, 3)
    dilation = each(draw, dimensions, 1, 2)
    layer = TRANSPOSED[dimensions](
        4,
        width := groups * draw(st.integers(1, 2)),
        kernel,
        stride=stride,
        padding=each(draw, dimensions, 0, 1),
        output_padding=tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)),
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )
    return Pooled(nn.Identity(), layer, width), dimensions


@given(transposed(), SEEDS)
@SOME
def test_transposed_convolutions(case: tuple[nn.Module, int], seed: int) -> None:
    model, dimensions = case
    check(model, torch.randn(BATCH, 4, *SIDES[dimensions]).double(), seed)


def test_a_transposed_convolution_whose_call_chooses_the_size() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            found = self.layer(output_size=[8, 7], input=x)
            return self.head(found.square().mean(dim=(2, 3)))  # type: ignore[no-any-return]

    check(Sized(), torch.randn(BATCH, 2, 4, 4).double(), 1)


# Normalisation ------------------------------------------------------------------------------------------------


def norms(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...], int]:
    """A layer, the shape of an example's inputs, and which of their dimensions (with the batch) are channels."""
    kind = draw(st.sampled_from(["layer", "layers", "rms", "group", "batch1", "batch", "batch2", "batch3"]))
    extra, bias = tuple(draw(st.lists(st.integers(1, 3), max_size=2))), draw(st.booleans())
    found: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...], int]]] = {
        "layer": lambda: (nn.LayerNorm(4, bias=bias), (*extra, 4), -1),
        "layers": lambda: (nn.LayerNorm([2, 4], bias=bias), (*extra, 2, 4), -1),
        "rms": lambda: (nn.RMSNorm(4), (*extra, 4), -1),
        "group": lambda: (nn.GroupNorm(2, 4), (4, *extra, 2), 1),
        "batch1": lambda: (nn.BatchNorm1d(4), (4,), 1),
        "batch": lambda: (nn.BatchNorm1d(4), (4, 3), 1),
        "batch2": lambda: (nn.BatchNorm2d(4), (4, 3, 2), 1),
        "batch3": lambda: (nn.BatchNorm3d(4), (4, 1, 2, 2), 1),
    }
    return found[kind]()


@st.composite
def normalized(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    layer, shape, dim = norms(draw)
    return Pooled(nn.Identity(), layer, 4, draw(st.integers(1, 2)), dim), shape


@given(normalized(), SEEDS)
@SOME
def test_scales_and_shifts_of_normalisations(case: tuple[nn.Module, tuple[int, ...]], seed: int) -> None:
    model, shape = case
    gradients = check(model, torch.randn(BATCH, *shape).double(), seed)
    layer = gradients["layer"]
    assert (layer.positions, layer.shape.groups, layer.shape.inputs) == (1, 1, 1)
    assert layer.shape.out == sum(p.numel() for p in model.layer.parameters())


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_scale_without_its_shift(frozen: str) -> None:
    model = Pooled(nn.Identity(), nn.LayerNorm(4), 4, dim=-1)
    model.layer.get_parameter(frozen).requires_grad_(False)
    layers = find_layers(model)
    [covered] = layers["layer"].parameter_names
    assert covered == f"layer.{'weight' if frozen == 'bias' else 'bias'}" and layers["layer"].out == 4
    inputs = torch.randn(BATCH, 2, 4)
    assert unsound_layers(model.eval(), layers, inputs, torch.randn(BATCH, 3)) == {}


def test_batch_statistics_are_no_layer_to_cover() -> None:
    assert family_of(nn.BatchNorm1d(2)) == "batch_norm"
    assert family_of(nn.BatchNorm1d(2, track_running_stats=False)) is None


# Linear maps by other names -----------------------------------------------------------------------------------


class Conv1D(nn.Module):
    """As transformers has it (GPT-2)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        size_out = (*x.size()[:-1], self.nf)
        x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return x.view(size_out)


@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4), SEEDS)
@FEW
def test_linear_layers_of_transformers(extra: list[int], width: int, seed: int) -> None:
    model = Pooled(nn.Identity(), Conv1D(width, 3), width, dim=-1)
    gradients = check(model, torch.randn(BATCH, *extra, 3).double(), seed)
    assert gradients["layer"].shape.weight_shape == (3, width)


def test_another_class_of_that_name_is_not_taken_for_it() -> None:
    class Conv1D(nn.Conv1d):
        pass

    assert family_of(Conv1D(2, 3, 1)) is None


# Attention ----------------------------------------------------------------------------------------------------


class Attending(nn.Module):
    """An attention over tokens, of several kinds."""

    def __init__(self, options: dict[str, Any], call: dict[str, Any], sources: str) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, **options)
        self.head = nn.Linear(4, 3)
        self.call, self.sources = call, sources

    def forward(self, x: Tensor) -> Tensor:
        memory = self.inner(x)
        key = memory[..., : self.attention.kdim]
        value = memory[..., -self.attention.vdim :]
        found = {"self": (x, x, x), "memory": (x, memory, memory), "all": (x, key, value)}[self.sources]
        if not self.attention.batch_first:
            found = tuple(part.transpose(0, 1) for part in found) if self.sources == "all" else _transposed(found)
        mask = {"attn_mask": torch.ones(3, 3, dtype=torch.bool).triu(1)} if self.call.get("is_causal") else {}
        attended, weights = self.attention(*found, **self.call, **mask)
        attended = attended if self.attention.batch_first else attended.transpose(0, 1)
        extra = 0 if weights is None else weights.reshape(len(x), -1)[:, :1]
        result: Tensor = self.head((attended + x).tanh().mean(dim=1)) + extra
        return result


def _transposed(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same tensors stay the same."""
    found = {id(part): part.transpose(0, 1) for part in parts}
    return tuple(found[id(part)] for part in parts)


@st.composite
def attentions(draw: st.DrawFn) -> nn.Module:
    sources = draw(st.sampled_from(["self", "memory", "all"]))
    sizes = {"kdim": 3, "vdim": 2} if sources == "all" and draw(st.booleans()) else {}
    options = {
        "batch_first": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "add_bias_kv": draw(st.booleans()),
        "add_zero_attn": draw(st.booleans()),
        **sizes,
    }
    needed = draw(st.booleans())
    causal = not needed and not options["add_bias_kv"] and not options["add_zero_attn"] and draw(st.booleans())
    call = {"need_weights": needed, "average_attn_weights": draw(st.booleans()), "is_causal": causal}
    return Attending(options, call, sources)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of the oracle
@given(attentions(), SEEDS)
@SOME
def test_multi_head_attention(model: nn.Module, seed: int) -> None:
    gradients = check(model, torch.randn(BATCH, 3, 4).double(), seed)
    names = {f"attention.{name}" for name in ("in_proj.query", "in_proj.key", "in_proj.value", "out_proj")}
    assert names <= set(gradients)
    left = set(uncovered(model, find_layers(model)))
    assert left == ({"attention.bias_k", "attention.bias_v"} & set(dict(model.named_parameters())))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of the oracle
@pytest.mark.parametrize("frozen", [False, True])
def test_an_encoder_has_the_outputs_and_gradients_that_it_has_without(frozen: bool) -> None:
    """In eval mode torch would take a path without gradients where nothing asks for them."""
    torch.manual_seed(3)
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
    model = Pooled(nn.Identity(), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 4, dim=-1)
    expected = check(model, torch.randn(BATCH, 3, 4).double(), 5)
    model.requires_grad_(not frozen)
    before = [sorted(vars(module)) for module in model.modules()]
    inputs = torch.randn(BATCH, 3, 4).double()
    with torch.no_grad():
        outputs = model(inputs)
    again = check_against_oracle(model, inputs, torch.arange(BATCH))
    assert list(again) == list(expected) and all(bool(g.dense().any()) for g in again.values())
    torch.testing.assert_close(model(inputs), outputs, **TIGHT)
    assert [sorted(vars(module)) for module in model.modules()] == before


def test_the_exact_hessian_over_an_attention_alone() -> None:
    """Its module returns a tuple, and may be called by names."""
    torch.manual_seed(6)
    model, inputs = Attending({"batch_first": True}, {"need_weights": False}, "self").eval(), torch.randn(BATCH, 3, 4)
    labels, layers = torch.arange(BATCH), find_layers(model, ["attention"])
    assert len(layers) == 4
    found = exact_hessian(model, CROSS_ENTROPY, [(inputs, labels, labels)], layers)
    twin = model.double()
    with sdpa_kernel(SDPBackend.MATH):
        expected = oracle.objective_hessian(
            twin, CROSS_ENTROPY.per_example, inputs.double(), labels, oracle.order(twin, dict.fromkeys(layers, 1))
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_an_attention_with_a_forward_of_its_own_is_left_out() -> None:
    model = Attending({"batch_first": True}, {"need_weights": False}, "self").eval()
    model.attention.forward = lambda q, k, v, **_: (F.linear(q, model.attention.in_proj_weight[:4]), None)
    layers = find_layers(model)
    found = unsound_layers(model, layers, torch.randn(BATCH, 3, 4), torch.randn(BATCH, 3))
    assert "attention.in_proj.query" in found and "head" not in found


# Embeddings ---------------------------------------------------------------------------------------------------


class Looked(nn.Module):
    """Indices as the columns of a table of numbers."""

    def __init__(self, table: nn.Embedding, shape: tuple[int, ...], dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.table, self.head, self.shape, self.dtype = table, nn.Linear(table.embedding_dim, 3), shape, dtype

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table(x.to(self.dtype).reshape(-1, *self.shape))
        result: Tensor = self.head(rows.tanh().flatten(1, -2).mean(dim=1) if rows.ndim > 2 else rows.tanh())
        return result


@given(
    st.lists(st.integers(1, 3), max_size=2),
    st.sampled_from([None, 0, -1]),
    st.sampled_from(["int32", "int64"]),
    SEEDS,
)
@FEW
def test_embeddings_on_request(extra: list[int], padding: int | None, dtype: str, seed: int) -> None:
    table = nn.Embedding(5, 2, padding_idx=padding)
    model, inputs = Looked(table, tuple(extra), getattr(torch, dtype)), torch.randint(5, (BATCH, *extra)).double()
    assert "table" in check(model, inputs, seed)
    assert "table" not in find_layers(model) and uncovered(model, find_layers(model)) == {"table.weight": 10}


def test_the_exact_hessian_over_an_embedding_with_padding() -> None:
    """The padding's row stays as it is: no gradient, no curvature."""
    torch.manual_seed(8)
    model, inputs = Looked(nn.Embedding(5, 2, padding_idx=1), (3,)).double().eval(), torch.randint(5, (6, 3)).double()
    labels, layers = torch.arange(6) % 3, find_layers(model, families=FAMILIES)
    found = exact_hessian(model, CROSS_ENTROPY, [(inputs, labels, labels)], layers)
    entries = oracle.order(model, dict.fromkeys(layers, 1))
    expected = oracle.objective_hessian(model, CROSS_ENTROPY.per_example, inputs, labels, entries)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_an_embedding_with_sparse_gradients_is_covered_as_well() -> None:
    model, inputs = Looked(nn.Embedding(5, 2, sparse=True), (2,)).eval(), torch.randint(5, (BATCH, 2)).float()
    assert unsound_layers(model, find_layers(model, families=FAMILIES), inputs, torch.randn(BATCH, 3)) == {}


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_embeddings_that_change_in_a_forward_or_by_their_batch_are_not_covered(options: dict[str, Any]) -> None:
    assert family_of(nn.Embedding(3, 2, **options)) is None


# Adapters -----------------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank adapter, as peft makes it."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(width, width).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(width, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, width, bias=False)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.scaling = {"default": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        low: Tensor = self.lora_A["default"](self.lora_dropout["default"](x))
        return self.base_layer(x) + self.lora_B["default"](low) * self.scaling["default"]  # type: ignore[no-any-return]


def test_adapters_alone_are_covered_where_the_rest_is_frozen() -> None:
    model = Pooled(nn.Identity(), Adapted(4, 2), 4, dim=-1)
    model.head.requires_grad_(False)
    layers = find_layers(model)
    assert list(layers) == ["layer.lora_A.default", "layer.lora_B.default"] and uncovered(model, layers) == {}
    check(model, torch.randn(BATCH, 2, 4).double(), 2)


# Weights made of other parameters ------------------------------------------------------------------------------

DERIVED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "weight norm": (lambda a: weight_norm(a, "in_proj_weight"), "in_proj_weight"),
    "pruned weight": (lambda a: prune.l1_unstructured(a, "in_proj_weight", 3), "in_proj_weight"),
    "pruned bias": (lambda a: prune.l1_unstructured(a, "in_proj_bias", 3), "in_proj_bias"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("name", DERIVED)
def test_an_attention_with_derived_weights_is_left_out_by_name(name: str) -> None:
    change, tensor = DERIVED[name]
    model = Attending({"batch_first": True}, {"need_weights": False}, "self").requires_grad_(False)
    model.attention.requires_grad_(True)
    model.head.requires_grad_(True)
    change(model.attention)
    layers = find_layers(model.eval())
    assert set(layers) == {"head"}
    assert unsound_layers(model, layers, torch.randn(BATCH, 3, 4), torch.randn(BATCH, 3)) == {}
    left = left_out_modules(model, layers, {}, include=None, frozen=False, families=FAMILIES)
    assert left == {
        "attention": f"its {tensor} comes from other parameters (weight_norm, pruning and the like)",
        "attention.out_proj": "it belongs to an attention that is not covered",
    }


# What is not covered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.EmbeddingBag, nn.Bilinear, nn.InstanceNorm1d])
def test_other_modules_are_not_covered(kind: Callable[..., nn.Module]) -> None:
    options = (2, 2, 2) if kind is nn.Bilinear else (2, 2) if kind is not nn.InstanceNorm1d else (2,)
    assert family_of(kind(*options)) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_a_part_in_torchscript_is_left_out_by_name() -> None:
    part = torch.jit.trace(nn.Linear(4, 4), torch.zeros(1, 4))
    model = Pooled(nn.Identity(), part, 4).eval()
    layers = find_layers(model)
    assert set(layers) == {"head"}
    assert unsound_layers(model, layers, torch.randn(BATCH, 4), torch.randn(BATCH, 3)) == {}
    left = left_out_modules(model, layers, {}, include=None, frozen=False, families=FAMILIES)
    assert left == {"layer": f"{type(part).__name__} is not of a family that can be covered"}
