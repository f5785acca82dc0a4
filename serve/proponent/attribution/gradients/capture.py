"""Per-example gradients of layers from one forward and one backward of a whole batch.

A layer's gradient for one example is ``d^T a``, summed over the positions t at which its weights are applied:
a are the layer's inputs and d the gradients of the loss with respect to its outputs (Goodfellow 2015,
"Efficient per-example gradient computations"; Rochette et al. 2019 for convolutions). Forward hooks record a
and mark the place in the autograd graph where d appears. The backward is that of the *sum* over examples.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from proponent.attribution.gradients.attention import Arrange, Projections, attending_by
from proponent.attribution.gradients.families import family_of
from proponent.attribution.gradients.graph import are_products, is_reentrant, weight_uses
from proponent.attribution.gradients.layer_gradients import LayerGradient, LayerGradients
from proponent.attribution.gradients.layers import Layers, LayerShape
from proponent.attribution.gradients.pullback import pulled_back
from proponent.attribution.gradients.uses import layer_uses, least_dimensions
from proponent.attribution.inputs import Inputs
from proponent.errors import SpecError


@dataclass(frozen=True)
class _LayerForward:
    """What a forward hook saw: the inputs, their version, and where the output gradient will appear."""

    inputs: Tensor
    version: int
    edge: GradientEdge
    output_shape: torch.Size
    arrange: Arrange
    without_grad: bool


class Use(NamedTuple):
    """How one forward used a layer.

    Attributes:
        calls: Of the layer.
        operations: That took each of its parameters, in or outside of these calls.
        fits: Whether gradients of examples can be told from the calls at all.
    """

    layer: str
    calls: int
    operations: tuple[int, ...]
    fits: bool


MISUSED = "its weights are also used outside of the layer's own call"


def _as_it_is(outputs: Tensor) -> Tensor:
    return outputs


class CaptureSession:
    """Hooks on a model for a number of forwards, each followed by any number of backwards.

    Use it as a context manager; leaving it, also by an exception, removes the hooks and frees the graph. The
    model is never changed otherwise: no mode, ``requires_grad``, ``.grad`` or attribute; attentions have another
    forward meanwhile. The caller chooses train or eval mode. The first dimension of the inputs of every covered layer
    must be the batch.

    Example:
        >>> with CaptureSession(model, find_layers(model)) as session:
        ...     outputs = session.forward(inputs)
        ...     gradients = session.backward(loss.output_gradient(outputs, labels))
    """

    def __init__(self, model: nn.Module, layers: Layers, *, twice: bool = False) -> None:
        """Nothing is hooked yet.

        Args:
            model: The model.
            layers: Whose gradients are wanted.
            twice: Whether outputs and gradients may be differentiated themselves, with respect to anything in the
                graph of the forward.
        """
        self._model = model
        self._twice = twice
        self._layers = dict(layers)
        self._modules = {name: _module(model, shape) for name, shape in self._layers.items()}
        self._restored = ExitStack()
        self._calls: dict[str, list[_LayerForward]] = {}
        self._recording = False
        self._outputs: Tensor | None = None
        self._may_pad = False

    def __enter__(self) -> Self:
        for name, shape in self._layers.items():
            if shape.attention is None:
                # Before the user's own hooks: these may replace the output that the gradient belongs to.
                hook = self._hook(name)
                handle = self._modules[name].register_forward_hook(hook, prepend=True, with_kwargs=True)
                self._restored.callback(handle.remove)
        for attention in {shape.attention for shape in self._layers.values()} - {None}:
            self._attend([shape for shape in self._layers.values() if shape.attention == attention])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restored.close()
        self._calls, self._outputs = {}, None

    def forward(self, inputs: Inputs) -> Tensor:
        """Run the model.

        Args:
            inputs: ``[B, ...]``; see `Inputs`.

        Returns:
            The outputs ``[B, ...]``, detached unless they may be differentiated.

        Raises:
            SpecError: If the model returns anything but one tensor.
        """
        self._calls = {name: [] for name in self._layers}
        self._may_pad = not isinstance(inputs, Tensor) or not inputs.is_floating_point()
        with torch.inference_mode(False), torch.enable_grad(), eager(), self._recorded():
            outputs = self._model(inputs.clone() if inputs.is_inference() else inputs)
        if not isinstance(outputs, Tensor):
            kind = type(outputs).__name__
            expected = "a tensor, a tuple that begins with it or an object with .logits"
            raise SpecError(f"The model must return {expected}, got {kind}.", field="model")
        self._outputs = outputs
        return outputs if self._twice else outputs.detach()

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Calls count only here: a checkpointed part of the model runs again in the backward."""
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def backward(self, output_gradient: Tensor) -> LayerGradients:
        """Per-example gradients of the function whose gradient at the outputs is given.

        Args:
            output_gradient: ``[B, ...]``, shaped like the outputs of the last forward.

        Returns:
            Layer name to gradient, in the order of the layers.

        Raises:
            SpecError: If a layer saw something other than the batch first, or its inputs were modified since.
            RuntimeError: If there was no forward.
        """
        if self._outputs is None:
            raise RuntimeError("backward needs a forward before it.")
        for message in self.problems().values():
            raise SpecError(message, field="layers")
        deltas = iter(self._deltas(self._outputs, output_gradient))
        return {
            name: LayerGradient(
                self._layers[name],
                layer_uses(self._layers[name], self._modules[name], [(c.inputs, next(deltas)) for c in calls]),
                self._anchor(name),
                self._may_pad,
            )
            for name, calls in self._calls.items()
        }

    def _anchor(self, name: str) -> Tensor:
        """Nothing for each example, in the precision of a layer's weights: under autocast outputs have another."""
        assert self._outputs is not None
        dtype = next(self._modules[name].parameters()).dtype
        return self._outputs.detach().new_empty(self._outputs.shape[0], 0, dtype=dtype)

    def _deltas(self, outputs: Tensor, output_gradient: Tensor) -> list[Tensor]:
        """Gradients at the outputs of all calls, zero where the model's outputs do not depend on them."""
        calls = [call for calls in self._calls.values() for call in calls]
        found: tuple[Tensor | None, ...] = (None,) * len(calls)
        if calls and outputs.requires_grad:
            edges = [call.edge for call in calls]
            found = pulled_back(outputs, edges, output_gradient, retain_graph=True, create_graph=self._twice)
        return [
            call.arrange(call.inputs.new_zeros(call.output_shape) if delta is None else delta)
            for call, delta in zip(calls, found, strict=True)
        ]

    def problems(self) -> dict[str, str]:
        """Layers whose inputs in the last forward give no per-example gradients, by name, and why.

        Raises:
            RuntimeError: If there was no forward.
        """
        if self._outputs is None:
            raise RuntimeError("forward has not been called.")
        batch = self._outputs.shape[0] if self._outputs.ndim else 0
        found = {name: self._problem(name, batch) for name in self._calls}
        return {name: why for name, why in found.items() if why is not None}

    def misuses(self) -> dict[str, str]:
        """Layers of which the last forward's graph shows that calls do not account for all gradients, and why.

        More operations that took a weight than calls of its layer are told though another operation's gradient may be
        zero: it need not be for other inputs.

        Raises:
            RuntimeError: If there was no forward.
        """
        told = {name: [call for call in calls if not call.without_grad] for name, calls in self._calls.items()}
        found = {use.layer: MISUSED for use in self.uses() if max(use.operations) > len(told[use.layer])}
        hidden = [name for name, calls in self._calls.items() if len(told[name]) < len(calls)]
        if hidden and self._outputs is not None and is_reentrant(self._outputs):
            found |= dict.fromkeys(hidden, "it is called inside of a checkpoint: set use_reentrant=False there")
        return found

    def are_products(self) -> bool:
        """See `proponent.attribution.gradients.graph.are_products`, of the last forward's outputs."""
        return self._outputs is not None and are_products(self._outputs)

    def uses(self) -> frozenset[Use]:
        """How the last forward used each layer: forwards that use them alike are seen alike.

        Raises:
            RuntimeError: If there was no forward.
        """
        problems, outputs = self.problems(), self._outputs
        assert outputs is not None  # problems() raises where there was no forward
        names = {name: shape.parameter_names for name, shape in self._layers.items()}
        parameters = {name: self._model.get_parameter(name) for own in names.values() for name in own}
        with torch.inference_mode(False), torch.enable_grad():
            found = weight_uses(outputs, parameters)
        return frozenset(
            Use(name, len(self._calls[name]), tuple(found[parameter] for parameter in own), name not in problems)
            for name, own in names.items()
        )

    def leave_out(self, names: Container[str]) -> None:
        """Wants no gradients of some layers in the backwards of the last forward."""
        self._calls = {name: calls for name, calls in self._calls.items() if name not in names}

    def unused(self) -> set[str]:
        """Layers that the last forward did not apply, by name."""
        return {name for name, calls in self._calls.items() if not calls}

    def _problem(self, name: str, batch: int) -> str | None:
        least = least_dimensions(self._modules[name])
        for call in self._calls[name]:
            if call.inputs.ndim < least or call.inputs.shape[0] != batch:
                shape = tuple(call.inputs.shape)
                return f"Layer {name!r}: expected inputs with the batch of {batch} first, got {shape}."
            if call.inputs._version != call.version:
                return f"Layer {name!r}: its inputs were modified in place after it had used them."
        return None

    def _hook(self, name: str) -> Callable[..., Tensor | None]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            inputs = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
            return self._record({name: _as_it_is}, inputs, output)

        return record

    def _attend(self, layers: list[LayerShape]) -> None:
        """Sees the linear maps of an attention; not where it has a forward of its own, which may do anything."""
        attention = self._modules[layers[0].name]
        if not isinstance(attention, nn.MultiheadAttention) or "forward" in vars(attention):
            return
        maps = Projections(self._model, layers)

        def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            outputs = F.linear(inputs, weight, bias)
            arranged, places = maps.called(inputs, weight)
            found = self._record(places, arranged, outputs)
            return outputs if found is None else found

        vars(attention)["forward"] = attending_by(attention, linear)
        self._restored.callback(vars(attention).pop, "forward")

    def _record(self, places: Mapping[str, Arrange], inputs: Tensor, output: Tensor) -> Tensor | None:
        """Notes a call of the layers that lie at some places of an output; what takes the output's place, if any."""
        if output.is_inference():
            return None  # no gradient comes from there
        starts_graph, without_grad = not output.requires_grad, not torch.is_grad_enabled()
        if starts_graph:
            output = output.requires_grad_()
        # The edge, not the tensor: an in-place activation gives the tensor a new place in the graph.
        # Where that would be refused (a leaf) or cut the edge off (a view), the activation gets a copy.
        edge, seen = get_gradient_edge(output), inputs if self._twice else inputs.detach()
        if self._recording:
            for name, arrange in places.items():
                self._calls[name].append(
                    _LayerForward(seen, seen._version, edge, output.shape, arrange, without_grad)
                )
        return output.clone() if starts_graph or output._is_view() else None


def eager() -> AbstractContextManager[object]:
    """Runs compiled models as written: a compiled forward may have been made without the hooks."""
    # Without the module, which takes seconds to import, nothing is compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _module(model: nn.Module, shape: LayerShape) -> nn.Module:
    module = model.get_submodule(shape.module)
    if family_of(module) is None:
        raise SpecError(f"Layer {shape.name!r} cannot be covered: it is a {type(module).__name__}.", field="layers")
    return module
