"""Everything that one training works with, built from a configuration and the data it may see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from histotune import files, runtime
from histotune.batches import Images, Preprocessing
from histotune.config import TrialConfig
from histotune.errors import ConfigError, DataError, HistotuneError, TrialFailed
from histotune.model import Model, build_model
from histotune.optimizer import WeightAverage, build_optimizer
from histotune.splits import TrainingData

_SMALLER = "lower batch_size or choose a smaller backbone"


@dataclass
class Session:
    """What the loop works with; tensors and network are on `device`.

    Attributes:
        labels: int64 [N]; `present`: bool [N]; both by row number of the cohort.
        autocast: type of autocast in a training step, None for float32.
        micro_batch: cases that go through the network at once in training.
    """

    config: TrialConfig
    data: TrainingData
    device: torch.device
    preprocessing: Preprocessing
    images: Images
    modality: str
    labels: Tensor
    present: Tensor
    model: Model
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    autocast: torch.dtype | None
    micro_batch: int

    @property
    def judged(self) -> Model:
        """The network that is validated and kept: the moving average's, or the trained one."""
        return self.average.model if self.average else self.model

    @cached_property
    def least(self) -> int:
        """The smallest micro-batch that the network trains with: 2 with batch norm, what redundancy needs, else 1."""
        norm = 1 + any(isinstance(module, _BatchNorm) for module in self.model.modules())
        return max(norm, self.model.redundancy.least_cases)

    def loss(self, images: Tensor, labels: Tensor, present: Tensor) -> Tensor:
        """Return the mean loss of standardised images [B, 3, S, S] against labels [B] or [B, C], in training."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return self.model.loss({self.modality: images}, {self.modality: present}, labels)

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
        DataError: labels or parts that cannot be trained on.
    """
    device = device or runtime.device()
    modality = _the_modality(config, data)
    images = Images(data.arrays[modality], device)
    side = images.array.shape[1]
    if side != config.image_size:
        raise ConfigError(
            f"image_size is {config.image_size}, but the cohort was prepared at {side} px: prepare it at "
            f"image_size {config.image_size}, or train at {side}"
        )
    _check_labels(data)
    runtime.seed_everything(config.seed)
    model: Model = build_model(config, data.counts).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Session(
        config=config,
        data=data,
        device=device,
        preprocessing=Preprocessing.fit(images.array, data.train),
        images=images,
        modality=modality,
        labels=torch.from_numpy(np.array(data.labels)).to(device),
        present=torch.from_numpy(np.array(data.present[modality], dtype=bool)).to(device),
        model=model,
        optimizer=build_optimizer(model, config.optimizer),
        average=WeightAverage(model, config.ema_decay) if config.ema_decay else None,
        autocast=runtime.autocast_dtype(config.precision, device, dense=model.dense),
        micro_batch=config.batch_size,
    )


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


def _the_modality(config: TrialConfig, data: TrainingData) -> str:
    asked = {branch.modality for branch in config.model.branches.values()}
    unknown = asked - set(data.arrays)
    if unknown:
        raise ConfigError(f"model.branches read {sorted(unknown)}, but the cohort has {sorted(data.arrays)}")
    if len(asked) > 1:
        raise ConfigError(f"model.branches read {sorted(asked)}: this version trains on one image modality at a time")
    return asked.pop()


def _check_labels(data: TrainingData) -> None:
    for part, rows in (("training", data.train), ("validation", data.val)):
        if not len(rows):
            raise DataError(f"the {part} part is empty: choose another split protocol or add patients")
        if data.labels[rows].min() < 0:
            raise DataError(f"the {part} part holds cases whose label is sealed or unknown")
    for name, count in zip(data.classes, data.counts, strict=True):
        if not count:
            raise DataError(f"class {name!r} has no case in the training part: choose another split or add patients")
