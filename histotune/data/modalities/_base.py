"""The contract of a kind of modality: how it lies on disk, what is fitted to it, and how rows of it become a batch.

Cohorts are read by commands that train nothing, so torch is imported by those functions alone that make tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np

from histotune.core.parameters import Allowed
from histotune.core.registry import Registry
from histotune.errors import ConfigError, suggest

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Bag(NamedTuple):
    """The instances of B cases, padded to the longest case of the batch.

    Attributes:
        features: float [B, P, D].
        coordinates: float [B, P, 2], x and y of every instance, pixels in the slide at its highest resolution.
        there: bool [B, P]; what is not there is padding, whose values have no meaning.
        neighbours: int64 [B, P, K], places in the bag of an instance's neighbours in the patch graph; -1 is none.
            K is 0 in a bag that is no graph.
    """

    features: Tensor
    coordinates: Tensor
    there: Tensor
    neighbours: Tensor


Batch: TypeAlias = "Tensor | Bag"
"""Some cases of one modality, case by case along the first dimension: [B, ...]."""


class Column(NamedTuple):
    """One modality of N cases.

    Attributes:
        kind: name of the kind of modality.
        stored: as the kind holds it.
        present: bool [N], who has it.
    """

    kind: str
    stored: Any
    present: np.ndarray

    def select(self, rows: np.ndarray) -> Column:
        """Return the cases `rows`, in memory."""
        return Column(self.kind, MODALITIES.build(self.kind).select(self.stored, rows), self.present[rows])


class CaseSource(Protocol):
    """Row numbers -> a raw batch on the device."""

    def take(self, rows: np.ndarray) -> Batch:
        """Return the cases `rows` as they are stored; one without this modality has any values."""


class Preprocessing:
    """What turns raw batches of one modality into a network's input, fitted on the training part only.

    Attributes:
        kind: name of the kind of modality.
    """

    kind: ClassVar[str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one case as a backbone gets it: images (3, S, S), tables (F,), bags and graphs (D,)."""
        raise NotImplementedError

    def standardise(self, raw: Any) -> Batch:
        """Map a raw batch to the network's input, in tensors only, so that it can be traced."""
        raise NotImplementedError

    def blank(self, cases: int, device: torch.device) -> Batch:
        """Return what stands for the input of cases that all lack the modality."""
        import torch

        return torch.zeros(cases, *self.shape, device=device)

    def check(self, stored: Any) -> Any:
        """Return stored cases in the form that `standardise` was fitted to.

        Raises:
            DataError: they are of another form: another image size, a column that is missing.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; `Modality.restore` takes it."""
        raise NotImplementedError


class Modality:
    """A kind of modality, such as images or tables. What is stored of it is opaque to all other code.

    Attributes:
        name: as registered.
    """

    name: ClassVar[str]

    def cases(self, stored: Any) -> int:
        """Return the number of cases."""
        raise NotImplementedError

    def select(self, stored: Any, rows: np.ndarray) -> Any:
        """Return the cases `rows`, in that order, in memory."""
        raise NotImplementedError

    def digests(self, stored: Any) -> list[str]:
        """Return what names the content of every case, hexadecimal."""
        raise NotImplementedError

    def save(self, stored: Any, folder: Path) -> None:
        """Write all cases into `folder`, which exists and is empty."""
        raise NotImplementedError

    def load(self, folder: Path) -> Any:
        """Open what `save` wrote; large arrays are memory-mapped.

        Raises:
            StudyError, ValueError: it is missing or damaged.
        """
        raise NotImplementedError

    def fit(self, stored: Any, rows: np.ndarray, labels: np.ndarray, options: Mapping[str, Any]) -> Preprocessing:
        """Fit the preprocessing on the cases `rows`, which are all present, and nothing else.

        Args:
            labels: int64 [len(rows)], the labels of these cases.
            options: parameters that a configuration gave, {} for the defaults.

        Raises:
            ConfigError: an option that this kind does not have, or an impossible value.
            DataError: nothing is left to learn from.
        """
        raise NotImplementedError

    def restore(self, saved: Mapping[str, Any]) -> Preprocessing:
        """Take what `Preprocessing.to_dict` gave."""
        raise NotImplementedError

    def source(self, stored: Any, device: torch.device) -> CaseSource:
        """Return what makes raw batches of the stored cases."""
        raise NotImplementedError

    def summary(self, stored: Any, rows: np.ndarray) -> np.ndarray:
        """Return plain numbers of the cases `rows` for a linear baseline, float [n, F]; NaN is a missing value."""
        raise NotImplementedError

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check parameters of the preprocessing without data.

        Raises:
            ConfigError: an option that this kind does not have, or an impossible value.
        """


MODALITIES: Registry[Modality] = Registry("kind of modality", "histotune.data.modalities")


def refuse_options(kind: str, options: Mapping[str, Any], known: Mapping[str, Allowed]) -> None:
    """Check options of a preprocessing against those of the kind.

    Raises:
        ConfigError: an unknown option, or a value outside its range.
    """
    for name, value in options.items():
        if name not in known:
            hint = suggest(name, known) if known else "It has none."
            raise ConfigError(f"preprocess: modalities of kind {kind!r} have no option {name!r}. {hint}")
        known[name].check(f"preprocess: {name!r} of kind {kind!r}", value)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch; from pinned memory, so that a GPU need not wait."""
    if device.type == "cpu":
        return batch
    return over(lambda tensor: tensor.pin_memory().to(device, non_blocking=True), batch)


def over(function: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """Apply a function to a batch, or to every tensor of a bag."""
    return Bag(*map(function, batch)) if isinstance(batch, Bag) else function(batch)


def tensor(batch: Batch) -> Tensor:
    """Return a batch that is one tensor, as those of images and tables are."""
    assert not isinstance(batch, Bag)
    return batch


def cut(batch: Batch, count: int) -> Sequence[Batch]:
    """Cut a batch along its cases into `count` parts, as `Tensor.tensor_split` does."""
    if isinstance(batch, Bag):
        return [Bag(*parts) for parts in zip(*(tensor.tensor_split(count) for tensor in batch), strict=True)]
    return batch.tensor_split(count)
