"""A user's classifier brought to life from its spec: model, loss, transform, classes, device."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from proponent.attribution.gradients.layers import LayerShape, find_layers, frozen_state
from proponent.attribution.inputs import Inputs, shapes, taking_inputs
from proponent.attribution.logits import returning_logits
from proponent.attribution.losses import Loss, get_loss
from proponent.attribution.user_code import blame
from proponent.datasets.transforms import pixels
from proponent.errors import NotFoundError, ProponentError, SpecError
from proponent.spec import LOSSES, Factory, ModelSpec


@dataclass(frozen=True)
class Classifier:
    """A loaded model in eval mode on its device, and what is needed to read its inputs and outputs.

    Attributes:
        weights_sha256: Digest of every parameter and buffer (see ``weights_digest``).
        buffers: Those of its state as they were loaded; a model may change its own whenever it is called.
    """

    spec: ModelSpec
    model: nn.Module
    loss: Loss
    transform: Callable[[Any], Tensor]
    device: torch.device
    weights_sha256: str
    buffers: Mapping[str, Tensor]

    @property
    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, as they were loaded: what ``weights_sha256`` is the digest of."""
        return {**self.model.state_dict(), **self.buffers}

    @property
    def class_names(self) -> list[str]:
        """Class names in class order."""
        return self.spec.class_names

    def find_layers(self) -> dict[str, LayerShape]:
        """The layers that the spec asks to explain; SpecError where it names one that is not there or frozen."""
        settings = self.spec.curvature
        return find_layers(self.model, settings.layers, frozen=settings.explains_frozen, families=settings.cover)


def load_classifier(
    spec: ModelSpec, *, weights: Path | None = None, device: torch.device | None = None
) -> Classifier:
    """Builds the model of a spec and loads its weights (``weights`` overrides the spec's file)."""
    model = build_model(spec)
    path = weights or spec.weights_path
    _load_state(model, read_weights(path), path)
    return classifier_of(spec, model, device=device)


def classifier_of(spec: ModelSpec, model: nn.Module, *, device: torch.device | None = None) -> Classifier:
    """A spec with a model that has its weights already; it is moved, and converted to single precision."""
    target = device or pick_device(spec.device)
    model = model.to(target).float().eval()
    state, buffers = model.state_dict(), dict(model.named_buffers())
    return Classifier(
        spec=spec,
        model=model,
        loss=load_loss(spec),
        transform=load_transform(spec),
        device=target,
        weights_sha256=weights_digest(state),
        buffers={name: state[name].clone() for name in state if name in buffers},
    )


def pick_device(name: str) -> torch.device:
    """The device named; "auto" takes a CUDA device where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError(f"key 'device' has value {name!r}: no CUDA device is available", field="device")
    if name == "mps" and not torch.backends.mps.is_available():
        raise SpecError(f"key 'device' has value {name!r}: no MPS device is available", field="device")
    return torch.device(name)


def import_attribute(name: str) -> Any:
    """What ``module:attribute`` names; the attribute may be dotted. Raises whatever the module raises."""
    module, _, attribute = name.partition(":")
    return attrgetter(attribute)(importlib.import_module(module))


def resolve(spec: ModelSpec, name: str, key: str) -> Callable[..., Any]:
    """Imports ``module:callable``; the spec's directory is searched first.

    Raises:
        SpecError: The module or the attribute does not exist, or is not callable; names the key.
    """
    root = str(spec.root)
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        found = import_attribute(name)
    except Exception as error:  # the user's module may raise anything when it is imported
        why = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise SpecError(f"key '{key}' has value {name!r}: cannot import it: {why}", field=key) from error
    _check_origin(spec, name.partition(":")[0], key)
    if not callable(found):
        raise SpecError(f"key '{key}' has value {name!r}: expected a callable", field=key)
    return found  # type: ignore[no-any-return]


def _check_origin(spec: ModelSpec, module_name: str, key: str) -> None:
    """Python keeps one module of a name: refuses another spec's where this spec's directory has its own."""
    top = module_name.partition(".")[0]
    own = [path for path in (spec.root / f"{top}.py", spec.root / top / "__init__.py") if path.is_file()]
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if own and (loaded is None or Path(loaded).resolve() != own[-1].resolve()):
        raise SpecError(
            f"key '{key}': module {top!r} was already imported from {loaded or 'Python itself'}, not from {own[-1]}: "
            "rename it, or use a process of its own",
            field=key,
        )


def call_factory(spec: ModelSpec, factory: Factory, key: str) -> Any:
    """Calls a factory with its keyword arguments; what goes wrong inside names the key."""
    function = resolve(spec, factory.factory, f"{key}.factory")
    try:
        return function(**{name: beside(spec.root, value) for name, value in factory.kwargs.items()})
    except TypeError as error:
        raise SpecError(f"key '{key}.kwargs' has value {factory.kwargs!r}: {error}", field=key) from error
    except ProponentError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise SpecError(
            f"key '{key}.factory' has value {factory.factory!r}: it raised {type(error).__name__}: {error}", field=key
        ) from error


def beside(root: Path, value: Any) -> Any:
    """A keyword argument; a text that begins with "./" and names what lies in the spec's folder becomes its path."""
    if isinstance(value, str) and value.startswith("./") and (root / value).exists():
        return str((root / value).absolute())
    return value


def build_model(spec: ModelSpec) -> nn.Module:
    """The model with whatever parameters its factory gives it; it returns logits, whatever stands around them."""
    model = call_factory(spec, spec.model, "model")
    if not isinstance(model, nn.Module):
        raise SpecError(
            f"key 'model.factory' has value {spec.model.factory!r}: it returned {type(model).__name__}, "
            "expected a torch.nn.Module",
            field="model.factory",
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise SpecError(
            f"key 'model.factory' has value {spec.model.factory!r}: it returned TorchScript, whose layers cannot be "
            "seen: expected the torch.nn.Module that it was made from",
            field="model.factory",
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise SpecError(
            f"key 'model.factory' has value {spec.model.factory!r}: it returned {type(model).__name__}, which "
            "spreads a batch over devices: expected the torch.nn.Module inside (its attribute module)",
            field="model.factory",
        )
    _check_sizes(spec, model)
    return prepared(model)


def prepared(model: nn.Module) -> nn.Module:
    """A model as this package calls it: with whatever `Inputs` is, for its logits alone."""
    return taking_inputs(returning_logits(_keeping_padding(model)))


def _check_sizes(spec: ModelSpec, model: nn.Module) -> None:
    """Refuses lazy layers: their first call makes other layers of them."""
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin):
            raise SpecError(
                f"key 'model.factory' has value {spec.model.factory!r}: its layer {name!r} is a "
                f"{type(module).__name__}: give it its size, or call the model once in the factory",
                field="model.factory",
            )


def _keeping_padding(model: nn.Module) -> nn.Module:
    """A model that predicts without gradients what it does with them.

    Without, torch's encoder takes its tokens out of the padding, and zeros stand there in place of its outputs.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return model


def untrained_model(spec: ModelSpec) -> nn.Module:
    """A model as training starts from it: what its factory freezes has the values of the spec's weights."""
    model = build_model(spec)
    frozen = frozen_state(model)
    if frozen:
        stored = read_weights(spec.weights_path)
        _load_state(model, {**model.state_dict(), **{n: stored[n] for n in frozen if n in stored}}, spec.weights_path)
    return model


def blame_user_model(inputs: Inputs) -> AbstractContextManager[None]:
    """Names the model where the user's code fails on a batch."""
    shape = shapes(inputs)
    return blame(f"key 'model': it fails on inputs of shape {shape} as 'dataset' and 'transform' give them", "model")


def load_loss(spec: ModelSpec) -> Loss:
    """The spec's loss by name, or around the user's callable."""
    return get_loss(spec.loss if spec.loss in LOSSES else resolve(spec, spec.loss, "loss"))


def load_transform(spec: ModelSpec) -> Callable[[Any], Tensor]:
    """The spec's transform; without keyword arguments the factory is the transform itself."""
    if spec.transform is None:
        return pixels
    if not spec.transform.kwargs:
        return resolve(spec, spec.transform.factory, "transform.factory")
    transform = call_factory(spec, spec.transform, "transform")
    if not callable(transform):
        raise SpecError(
            f"key 'transform.factory' has value {spec.transform.factory!r}: it returned "
            f"{type(transform).__name__}, expected a callable",
            field="transform.factory",
        )
    return transform  # type: ignore[no-any-return]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file, or a state_dict with ``weights_only=True``; never a pickle.

    Raises:
        NotFoundError: No such file.
        SpecError: Not readable as either format.
    """
    if not path.is_file():
        raise NotFoundError(f"weights not found: {path}", field="weights", reason="WEIGHTS_NOT_FOUND")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise _bad_weights(path, str(error)) from error
    except Exception as error:  # torch.load raises pickle.UnpicklingError for anything but tensors
        raise _bad_weights(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _bad_weights(path, f"holds a {type(state).__name__}, expected a state_dict of tensors")
    return dict(state)


def _bad_weights(path: Path, why: str) -> SpecError:
    return SpecError(f"key 'weights' has value {str(path)!r}: cannot be read: {why}", field="weights")


def _load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(_with_tied(model, state))
    except RuntimeError as error:
        raise _bad_weights(path, f"does not fit the model: {error}") from error


def _with_tied(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with every name of a tied tensor, of which some writers keep one only."""
    own = model.state_dict(keep_vars=True)
    stored = {id(tensor): state[name] for name, tensor in own.items() if name in state}
    tied = {name: stored[id(tensor)] for name, tensor in own.items() if name not in state and id(tensor) in stored}
    return {**state, **tied}


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state_dict, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
