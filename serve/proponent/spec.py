"""explain.yaml: a user's classifier, described without touching this package.

A spec names factories (``module:callable`` with keyword arguments), files relative to itself, and numbers.
Loading checks every key and says which one is wrong, its value and what was expected. Nothing is imported
from the user's code here; see ``classifier.py`` for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from proponent.errors import NotFoundError, SpecError
from proponent.index.store import MODEL_NAME

FACTORY_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
SPEC_FILE = "explain.yaml"
MOST_TEACHERS = 1000
LOSSES = ("cross_entropy", "nll", "bce", "hinge")
Family = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "multi_head_attention",
    "layer_norm",
    "rms_norm",
    "group_norm",
    "batch_norm",
    "embedding",
    "transposed_linear",
]
"""See `proponent.attribution.gradients.families`."""
DEFAULT_COVER: tuple[Family, ...] = tuple(f for f in get_args(Family) if f not in ("batch_norm", "embedding"))
FIRST_COVER: tuple[Family, ...] = ("linear", "conv2d")
"""What was covered before there was a choice."""
DEFAULT = "default"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Factory(_Section):
    """A callable of the user's, named ``module:callable``, and its keyword arguments."""

    factory: Annotated[str, Field(pattern=FACTORY_PATTERN)]
    kwargs: dict[str, Any] = Field(default_factory=dict)


class Curvature(_Section):
    """How the curvature is made and inverted; the README has a table of the keys."""

    kind: Literal["exact", "ekfac", "kfac"] = "exact"
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] | None = None
    damping_relative: bool | None = None
    energy: Annotated[float, Field(gt=0, le=1)] = 1.0
    embedding_size: Annotated[int, Field(gt=0)] | None = None
    subspace_size: Annotated[int, Field(gt=0)] | None = None
    second_damping: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    fisher: Literal["true", "empirical", "ggn"] = "true"
    draws: Annotated[int, Field(gt=0)] = 1
    layers: list[str] | None = None
    cover: Annotated[tuple[Family, ...], Field(min_length=1)] = DEFAULT_COVER
    frozen: Literal["leave_out", "explain"] = "leave_out"
    fit_examples: Annotated[int, Field(gt=0)] = 10_000
    max_parameters: Annotated[int, Field(gt=0)] = 12_000
    seed: int = 0
    teachers: Annotated[int, Field(ge=0, le=MOST_TEACHERS)] = 0
    teachers_on: Literal["mixed", "all"] = "mixed"
    pseudo_queries: Annotated[int, Field(gt=0)] = 10_000
    ridge: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.003

    @field_validator("cover", mode="before")
    @classmethod
    def _with_default(cls, value: Any) -> Any:
        """``default`` stands for what is covered without the key; the order says nothing."""
        if not isinstance(value, list | tuple):
            return value
        named = [*DEFAULT_COVER, *value] if DEFAULT in value else value
        known = [family for family in get_args(Family) if family in named]
        return known + [family for family in value if family not in (DEFAULT, *known)]

    @field_validator("teachers")
    @classmethod
    def _teachers_of_networks(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("kind") == "exact":
            raise ValueError(
                "expected 0 with kind 'exact': a convex model's trainings all end in the same minimum, so that its "
                "own influence is the recipe's already"
            )
        return value

    @property
    def relative(self) -> bool:
        """Whether damping counts in units of each layer's mean eigenvalue."""
        return self.kind != "exact" if self.damping_relative is None else self.damping_relative

    @property
    def explains_frozen(self) -> bool:
        """Whether parameters with ``requires_grad=False`` are taken as if they were trained."""
        return self.frozen == "explain"


class ModelSpec(_Section):
    """Everything needed to rebuild and to serve one classifier.

    Attributes:
        unlabelled: Inputs without labels, which distillation asks about; see `proponent.rebuild.distillation`.
        samples: Held-out inputs that a bundle keeps, with their explanations; 0 keeps none.
        outputs_are_scores: Whether the loss is to take the model's outputs for scores though all look like
            probabilities.
        root: Directory of the spec; relative paths and the user's modules are looked up there.

    >>> spec = load_spec(project)  # a directory with explain.yaml
    >>> spec.name, spec.curvature.kind, len(spec.class_names)
    ('digits', 'exact', 10)
    """

    name: Annotated[str, Field(pattern=MODEL_NAME)]
    model: Factory
    weights: str
    dataset: Factory
    held_out: Factory | None = None
    unlabelled: Factory | None = None
    samples: Annotated[int, Field(ge=0, le=10_000)] = 200
    transform: Factory | None = None
    loss: str = "cross_entropy"
    outputs_are_scores: bool = False
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    class_names: Annotated[list[str], Field(min_length=2)]
    expected_accuracy: Annotated[float, Field(ge=0, le=1)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    training: Factory | None = None
    curvature: Curvature = Field(default_factory=Curvature)
    root: Path = Path(".")

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        if value not in LOSSES and ":" not in value:
            raise ValueError(f"expected one of {', '.join(LOSSES)} or module:callable")
        return value

    @field_validator("class_names", mode="before")
    @classmethod
    def _names_as_text(cls, value: Any) -> Any:
        return [str(name) for name in value] if isinstance(value, list) else value

    @property
    def weights_path(self) -> Path:
        """Absolute path of the weights file."""
        return (self.root / self.weights).absolute()


def load_spec(path: str | Path) -> ModelSpec:
    """Reads explain.yaml (or a directory that holds one).

    Raises:
        NotFoundError: There is no such file.
        SpecError: The file is not a YAML mapping, or a key is missing, unknown or wrong.

    Example:
        >>> load_spec(project / "explain.yaml").weight_decay
        0.01
        >>> load_spec("nowhere")
        Traceback (most recent call last):
        proponent.errors.NotFoundError: spec not found: ...
    """
    file = Path(path)
    file = file / SPEC_FILE if file.is_dir() else file
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"spec not found: {file.absolute()}", field=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: not valid YAML: {error}", field=str(file)) from None
    if not isinstance(content, dict):
        raise SpecError(f"{file}: expected a mapping of keys, got {type(content).__name__}", field=str(file))
    root = content.get("root", ".")
    return parse_spec(
        {**content, "root": (file.parent / root).absolute() if isinstance(root, str) else root}, origin=str(file)
    )


def parse_spec(content: dict[str, Any], origin: str) -> ModelSpec:
    """Validates the mapping of a spec; ``origin`` names it in errors."""
    try:
        return ModelSpec.model_validate(content)
    except ValidationError as error:
        details = "; ".join(_describe(problem) for problem in error.errors())
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise SpecError(f"{origin}: {details}", field=field) from None


def with_damping(spec: ModelSpec, damping: str | None) -> ModelSpec:
    """The spec with a damping of the command line's, a number or ``auto``; None leaves it as it is."""
    if damping is None:
        return spec
    content = spec.model_dump(mode="json")
    content["curvature"]["damping"] = damping if damping == "auto" else _number(damping)
    return parse_spec(content, origin="--damping")


def with_samples(spec: ModelSpec, samples: int | None) -> ModelSpec:
    """The spec with a number of samples of the command line's; None leaves it as it is."""
    if samples is None:
        return spec
    return parse_spec({**spec.model_dump(mode="json"), "samples": samples}, origin="--samples")


def with_teachers(spec: ModelSpec, teachers: int | None) -> ModelSpec:
    """The spec with a number of teachers of the command line's; None leaves it as it is."""
    if teachers is None:
        return spec
    content = spec.model_dump(mode="json")
    content["curvature"]["teachers"] = teachers
    return parse_spec(content, origin="--teachers")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def dump_spec(spec: ModelSpec) -> str:
    """The spec as ASCII YAML (PyYAML folds Unicode line breaks) with its absolute root, for serving from anywhere."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)


def _describe(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    if problem["type"] == "extra_forbidden":
        return f"key '{key}' is unknown (value {problem['input']!r})"
    expected = problem["msg"].removeprefix("Value error, ")
    return f"key '{key}' has value {problem['input']!r}: {expected}"
