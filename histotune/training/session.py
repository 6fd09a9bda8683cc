"""Everything that one training works with, built from a configuration and the data it may see."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from histotune.core import files, runtime
from histotune.core.config import TrialConfig
from histotune.data.augment import augment, mixup
from histotune.data.batches import Feed, Preparations
from histotune.data.modalities import MODALITIES, Column, Preprocessing, tensor
from histotune.data.splits import TrainingData
from histotune.errors import ConfigError, DataError, HistotuneError, TrialFailed
from histotune.models.backbones import BackboneInput
from histotune.models.network import IMAGE, Inputs, Model, Present, build_model, check_modalities, inputs_given
from histotune.models.predictor import inputs_of
from histotune.training.optimizer import WeightAverage, build_optimizer

_SMALLER = "lower batch_size or choose a smaller backbone"


@dataclass
class Session:
    """What the loop works with; tensors and network are on `device`.

    Attributes:
        preparations: what was fitted to every modality that a branch reads, used or not.
        feed: row numbers of the cohort -> cases of these modalities.
        labels: int64 [N], by row number of the cohort.
        has_input: bool [N], which cases have a modality that the network reads.
        train: the row numbers of the training part that are trained on: those with input.
        autocast: type of autocast in a training step, None for float32.
        micro_batch: cases that go through the network at once in training.
    """

    config: TrialConfig
    data: TrainingData
    device: torch.device
    preparations: Preparations
    feed: Feed
    labels: Tensor
    has_input: np.ndarray
    train: np.ndarray
    model: Model
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    autocast: torch.dtype | None
    micro_batch: int

    @property
    def judged(self) -> Model:
        """The network that is validated and kept: the moving average's, or the trained one."""
        return self.average.model if self.average else self.model

    @property
    def counts(self) -> tuple[int, ...]:
        """Cases of each class that are trained on, [C]."""
        return self.data.counts_of(self.train)

    @cached_property
    def least(self) -> int:
        """The smallest micro-batch that the network trains with: 2 with batch norm, what redundancy needs, else 1."""
        norm = 1 + any(isinstance(module, _BatchNorm) for module in self.model.modules())
        return max(norm, self.model.redundancy.least_cases)

    def inputs(self, rows: np.ndarray) -> tuple[Inputs, Present]:
        """Return what the network takes of the cases `rows`, as they are."""
        return inputs_of(self.model, self.preparations, self.feed.take(rows))

    def drawn(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Inputs, Present, Tensor]:
        """Return what the network takes of the cases `rows` in training, and their labels [B], or soft ones [B, C]."""
        cases, config = self.feed.take(rows), self.config.augment
        changed = {name: augment(tensor(cases.values[name]), config, rng) for name in self.model.images}
        inputs, present = inputs_of(self.model, self.preparations, replace(cases, values={**cases.values, **changed}))
        labels = self.labels[torch.from_numpy(rows).to(self.device)]
        if self.data.targets is not None:
            labels = torch.from_numpy(self.data.targets[rows]).to(self.device, torch.float32)
        if not config.mixup:
            return inputs, present, labels
        soft = labels if labels.ndim == 2 else functional.one_hot(labels, len(self.data.classes)).float()
        (name,) = self.model.images
        mixed, labels = mixup(tensor(inputs[name]), soft, config.mixup, rng)
        return {name: mixed}, present, labels

    def loss(self, inputs: Inputs, present: Present, labels: Tensor) -> Tensor:
        """Return the mean loss of standardised inputs against labels [B] or [B, C], in training."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return self.model.loss(inputs, present, labels)

    def state(self) -> dict[str, Any]:
        """Return what changes with training, as references to the live tensors."""
        average = self.average.model.state_dict() if self.average else {}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": average}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave; the optimiser's settings stay those of the configuration."""
        self.model.load_state_dict(state["model"])
        own = [
            {name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)
        if self.average:
            self.average.model.load_state_dict(state["average"])


def start(config: TrialConfig, data: TrainingData, device: torch.device | None = None) -> Session:
    """Seed everything and build all that the loop needs, as it is before epoch 1.

    Raises:
        ConfigError: a name or parameter that does not make sense, or another image size than the cohort's.
        DataError: labels, parts or modalities that cannot be trained on.
    """
    device = device or runtime.device()
    columns = _read(config, data)
    preparations = fit_preparations(config, columns, data)
    _check_sizes(config, preparations)
    _check_labels(data)
    runtime.seed_everything(config.seed)

    def counts(modalities: Collection[str]) -> tuple[int, ...]:
        usable = np.any([columns[name].present for name in modalities], axis=0)
        return data.counts_of(_trained_on(data, usable, sorted(modalities)))

    built = build_model(config, counts, inputs_given(preparations))
    model: Model = built.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    observed = {
        name: columns[name]._replace(stored=preparations[name].check(columns[name].stored))
        for name in sorted(set(model.modalities.values()))
    }
    usable = np.any([column.present for column in observed.values()], axis=0)
    return Session(
        config=config,
        data=data,
        device=device,
        preparations={name: preparations[name] for name in observed},
        feed=Feed(observed, observed, device),
        labels=torch.from_numpy(np.array(data.labels)).to(device),
        has_input=usable,
        train=_trained_on(data, usable, sorted(observed)),
        model=model,
        optimizer=build_optimizer(model, config.optimizer),
        average=WeightAverage(model, config.ema_decay) if config.ema_decay else None,
        autocast=runtime.autocast_dtype(config.precision, device, dense=model.dense),
        micro_batch=config.batch_size,
    )


def shapes(config: TrialConfig, data: TrainingData) -> dict[str, BackboneInput]:
    """Return kind and shape of every modality that a configuration reads; of images without looking at them."""
    columns = {name: column for name, column in _read(config, data).items() if column.kind != IMAGE}
    seen = next(iter(data.cuts()), data)
    return inputs_given(fit_preparations(config, columns, seen))


def fit_preparations(
    config: TrialConfig, columns: Mapping[str, Column], data: TrainingData
) -> dict[str, Preprocessing]:
    """Fit every modality's preprocessing on those cases of the training part that have it, and on nothing else.

    Raises:
        ConfigError: an option that a modality's kind does not have.
        DataError: no training case has the modality.
    """
    result = {}
    for name, column in columns.items():
        rows = data.train[column.present[data.train]]
        if not len(rows):
            raise DataError(f"modality {name!r} is absent for all {len(data.train)} training cases: leave it out")
        options = config.preprocess.get(name, {})
        result[name] = MODALITIES.build(column.kind).fit(column.stored, rows, data.labels[rows], options)
    return result


@contextlib.contextmanager
def named_failures() -> Iterator[None]:
    """Turn what can end a training into a `TrialFailed` of a kind that can be counted; let everything else through."""
    try:
        yield
    except TrialFailed:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrialFailed("out_of_memory", f"{error}: {_SMALLER}") from error
    except DataError as error:
        raise TrialFailed("bad_data", str(error)) from error
    except HistotuneError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in files.FULL:
            raise TrialFailed("disk_full", str(error)) from error
        raise
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's words on a CPU; it has no type for it there
            raise
        raise TrialFailed("out_of_memory", f"{error}: {_SMALLER}") from error


def _read(config: TrialConfig, data: TrainingData) -> dict[str, Column]:
    """Return the modalities that the branches read.

    Raises:
        ConfigError: the cohort has no such modality.
    """
    columns = data.columns
    check_modalities(config, {name: column.kind for name, column in columns.items()})
    return {name: columns[name] for name in sorted({branch.modality for branch in config.model.branches.values()})}


def _check_sizes(config: TrialConfig, preparations: Preparations) -> None:
    for fitted in preparations.values():
        if fitted.kind == IMAGE and fitted.shape[-1] != config.image_size:
            side = fitted.shape[-1]
            raise ConfigError(
                f"image_size is {config.image_size}, but the cohort was prepared at {side} px: prepare it at "
                f"image_size {config.image_size}, or train at {side}"
            )


def _trained_on(data: TrainingData, observed: np.ndarray, modalities: list[str]) -> np.ndarray:
    """Return the rows of the training part that have input; each class must be among them."""
    rows = data.train[observed[data.train]]
    counts = np.bincount(data.labels[rows], minlength=len(data.classes))
    for name, count in zip(data.classes, counts, strict=True):
        if not count:
            raise DataError(
                f"no training case of class {name!r} has {' or '.join(modalities)}: leave that modality out, or choose "
                "another split"
            )
    return rows


def _check_labels(data: TrainingData) -> None:
    for part, rows in (("training", data.train), ("validation", data.val)):
        if not len(rows):
            raise DataError(f"the {part} part is empty: choose another split protocol or add patients")
        if data.labels[rows].min() < 0:
            raise DataError(f"the {part} part holds cases whose label is sealed or unknown")
    for name, count in zip(data.classes, data.counts, strict=True):
        if not count:
            raise DataError(f"class {name!r} has no case in the training part: choose another split or add patients")
