"""A trial as frozen data: registered names and parameters, nothing live; its digest names it."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from histotune.core.provenance import short_digest
from histotune.errors import ConfigError, suggest

D = TypeVar("D")

LATE, LATE_SAYS = "late", "of"  # a late fusion always says what it is of; one that does not is of an earlier version


@dataclass(frozen=True)
class Spec:
    """A component by its registered name, plus its parameters; in YAML `{name: focal, gamma: 2}` or just `focal`."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any, where: str) -> Spec:
        """Read a name or a mapping with `name`.

        >>> Spec.parse({"name": "focal", "gamma": 2}, "loss")
        Spec(name='focal', params={'gamma': 2})
        """
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ConfigError(f"{where}: expected a name or a mapping with 'name', got {value!r}")
        return cls(value["name"], {k: v for k, v in value.items() if k != "name"})


@dataclass(frozen=True)
class BranchConfig:
    """One path of a model: which modality it reads and through which backbone."""

    modality: str = "image"
    backbone: Spec = field(default_factory=lambda: Spec("alexnet"))


@dataclass(frozen=True)
class HeadConfig:
    """The layers between the fused vector and the objective: [B, D] -> [B, feature_dim or D].

    Args:
        feature_dim: width of the features that the objective sees; 0 keeps the fused width, without a linear layer.
        feature_norm: `none`, `batch`, `layer`, or `auto`: what the loss needs, `layer` before the affinity losses.
        dropout: probability of dropping a feature, in [0, 1).
        bottleneck: weight of the variational information bottleneck that then replaces the linear layer; 0 is none.
    """

    feature_dim: int = 0
    feature_norm: str = "auto"
    dropout: float = 0.0
    bottleneck: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _at_least("model.head.feature_dim", self.feature_dim, 0)
        _one_of("model.head.feature_norm", self.feature_norm, ("auto", "none", "batch", "layer"))
        _within("model.head.dropout", self.dropout, 0.0, 1.0, open_right=True)
        _within("model.head.bottleneck", self.bottleneck, 0.0, math.inf)


@dataclass(frozen=True)
class ModelConfig:
    """branches -> fusion -> head -> objective; `redundancy` is a loss on information that branches share.

    Args:
        modality_dropout: probability with which a modality that a training case has is withheld from the network in a
            step; one at least always stays.
    """

    branches: Mapping[str, BranchConfig] = field(default_factory=lambda: {"image": BranchConfig()})
    fusion: Spec = field(default_factory=lambda: Spec("none"))
    redundancy: Spec = field(default_factory=lambda: Spec("none"))
    head: HeadConfig = field(default_factory=HeadConfig)
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a model without branches, and values outside their range."""
        _within("model.modality_dropout", self.modality_dropout, 0.0, 1.0, open_right=True)
        if not self.branches:
            raise ConfigError("model.branches is empty: name at least one branch, such as image: {backbone: alexnet}")


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and learning-rate schedule; the schedule counts steps and starts from 0 in its warm-up."""

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_fraction: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _one_of("optimizer.name", self.name, ("adamw", "sgd", "adagrad"))
        _one_of("optimizer.schedule", self.schedule, ("cosine", "constant"))
        _within("optimizer.learning_rate", self.learning_rate, 0.0, math.inf, open_left=True)
        _within("optimizer.weight_decay", self.weight_decay, 0.0, math.inf)
        _within("optimizer.momentum", self.momentum, 0.0, 1.0, open_right=True)
        _within("optimizer.warmup_fraction", self.warmup_fraction, 0.0, 1.0)
        _within("optimizer.clip_norm", self.clip_norm, 0.0, math.inf)


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training batch of images; every amount is 0 for "off".

    Args:
        flip: mirror left-right and top-bottom, each with probability 1/2.
        turn: turn by a random multiple of 90 degrees.
        color_jitter: half-width of the factors for brightness, contrast and saturation, in [0, 1).
        stain_jitter: half-width of the factors for the haematoxylin and eosin channels, in [0, 1).
        mixup: parameter of the symmetric Beta distribution of the mixing weight, >= 0.
    """

    flip: bool = True
    turn: bool = True
    color_jitter: float = 0.0
    stain_jitter: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _within("augment.color_jitter", self.color_jitter, 0.0, 1.0, open_right=True)
        _within("augment.stain_jitter", self.stain_jitter, 0.0, 1.0, open_right=True)
        _within("augment.mixup", self.mixup, 0.0, math.inf)


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides what one training does, apart from the data and their split.

    Args:
        preprocess: {modality: options of its preprocessing}, where they are not the defaults of its kind.
        image_size: side of the square images that the model sees, pixels.
        epochs: passes over the training part at most.
        batch_size: cases per step.
        patience: epochs without a better validation metric after which training ends; 0 never ends early.
        precision: `auto`, `float32` or `bfloat16` autocast.
        ema_decay: decay per step of the exponential moving average of the weights that is validated; 0 is off.
        tta: predict as the mean logit over the eight flips and turns of an image (the curve per epoch does without).
        seed: seed of initial weights, order of batches and augmentation.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: Spec = field(default_factory=lambda: Spec("cross_entropy"))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    preprocess: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    image_size: int = 32
    epochs: int = 20
    batch_size: int = 128
    patience: int = 0
    precision: str = "auto"
    ema_decay: float = 0.0
    tta: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _at_least("image_size", self.image_size, 8)
        _at_least("epochs", self.epochs, 1)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("patience", self.patience, 0)
        _at_least("seed", self.seed, 0)
        _one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        _within("ema_decay", self.ema_decay, 0.0, 1.0, open_right=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Read a nested mapping as `to_dict` or YAML gives it; what is left out keeps its default.

        Raises:
            ConfigError: an unknown key (the nearest is offered), a wrong type or a value out of range, with its path.
        """
        return parse(cls, values, "")

    def to_dict(self) -> dict[str, Any]:
        """Return the nested mapping of plain values that `from_dict` reads."""
        plain = unparse(self)
        assert isinstance(plain, dict)
        return plain

    def digest(self) -> str:
        """Return 12 hexadecimal digits that name this configuration.

        >>> TrialConfig().digest() == TrialConfig.from_dict({"epochs": 20}).digest()
        True
        """
        return short_digest(self.to_dict())


def parse(kind: type[D], values: Any, where: str) -> D:
    """Build the dataclass `kind` from a mapping, strictly; `where` is the path for error messages."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'configuration'}: expected a mapping, got {values!r}")
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    known = [f.name for f in fields]
    arguments = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise ConfigError(f"unknown key {path!r}. {suggest(str(key), known)}")
        arguments[key] = _value(hints[key], value, path)
    needed = [f.name for f in fields if f.default is f.default_factory]  # is missing, both times
    if lacking := [name for name in needed if name not in arguments]:
        raise ConfigError(f"{where or 'configuration'} lacks {', '.join(lacking)}")
    return kind(**arguments)


def unparse(value: Any) -> Any:
    """Turn configs into plain nested mappings; a `Spec` becomes `{name: ..., **params}`."""
    if isinstance(value, Spec):
        return {"name": value.name, **{k: unparse(v) for k, v in value.params.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: unparse(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): unparse(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [unparse(v) for v in value]
    return value


def _value(hint: Any, value: Any, path: str) -> Any:
    if hint is Spec:
        return Spec.parse(value, path)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return parse(hint, value, path)
    if get_origin(hint) in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        return _value(next(o for o in options if o is not type(None)), value, path)
    if get_origin(hint) is not None and issubclass(get_origin(hint), Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {value!r}")
        return {k: _value(get_args(hint)[1], v, f"{path}.{k}") for k, v in value.items()}
    return _scalar(hint, value, path)


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint in (int, float, str, bool) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ConfigError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value


def _one_of(path: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{path}: unknown value {value!r}. {suggest(value, known)}")


def _at_least(path: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{path} must be at least {least}, got {value}")


def _within(
    path: str, value: float, low: float, high: float, *, open_left: bool = False, open_right: bool = False
) -> None:
    above = value > low if open_left else value >= low
    below = value < high if open_right else value <= high
    if not (above and below):
        interval = f"{'(' if open_left else '['}{low:g}, {high:g}{')' if open_right else ']'}"
        raise ConfigError(f"{path} must lie in {interval}, got {value!r}")
