"""The contract of a comparison out of folds: who competes on which modalities, and over which patients it is measured.

A parallel to `Reproduction`, whose contenders are searched on a validation part and measured on a sealed one: here is
no sealed part, nothing is chosen, and a seed is another deal of the folds as well as another initialisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.core import files
from histotune.core.config import Spec, TrialConfig, parse
from histotune.errors import ConfigError, suggest
from histotune.reproductions.contract import Published, Scale, named
from histotune.space import Space

if TYPE_CHECKING:
    from histotune.reproductions._folded_measure import Compared, Scored


@dataclass(frozen=True)
class Contender:
    """A network of some branches of the setting's space.

    Args:
        branches: their names there.
        fusion: what joins them.
        modality_dropout: as a configuration has it.
        complete: train on those patients alone who have every modality of the branches, and drop the others.
    """

    branches: Sequence[str]
    fusion: Spec = field(default_factory=lambda: Spec("none"))
    modality_dropout: float = 0.0
    complete: bool = False

    def config(self, space: Space, *, epochs: int, seed: int) -> TrialConfig:
        """Return the configuration: the space's default in all but what is said here.

        Raises:
            ConfigError: the space has no such branch.
        """
        default = space.default()
        known = default["model"]["branches"]
        for name in self.branches:
            if name not in known:
                raise ConfigError(f"space {space.name!r} has no branch {name!r}. {suggest(name, known)}")
        model = default["model"] | {
            "branches": {name: known[name] for name in self.branches},
            "fusion": {"name": self.fusion.name, **self.fusion.params},
            "modality_dropout": self.modality_dropout,
        }
        return TrialConfig.from_dict(default | {"model": model, "epochs": epochs, "seed": seed})


@dataclass(frozen=True)
class FoldedSetting:
    """Data on which contenders are compared.

    Args:
        space: shipped search space with folds and the split `patient_kfold`; its default is what is trained.
        budgets: {name of a budget: what it spends}; a trial per contender and seed.
        contenders: {row: network}.
        singles: those of one modality among which the best is the reference; none that reads its own label.
        patients: modalities that the patients have over whom all are compared.
        means: {row: contenders whose probabilities are averaged}.
        linear: {row: modalities of a linear control}.
        tuned: the same, with the strength of its penalty chosen inside the training part of every fold.
        controls: rows of `linear` and `tuned` with which all rows are compared, too.
        marked: {row: why it is not compared with the others}.
        pairs: {what is changed: [row with it, row without]}, compared over the same patients.
        paper: {what: how the paper had it} of what differs here.
        published: {row: what the paper prints of the same metric}.
        printed: {method: what the paper prints of it in other metrics}, in words.
        notes: what else a reader of the tables must know.
    """

    space: str
    budgets: Mapping[str, Scale]
    contenders: Mapping[str, Contender]
    singles: Sequence[str]
    patients: Sequence[str]
    means: Mapping[str, Sequence[str]] = field(default_factory=dict)
    linear: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tuned: Mapping[str, Sequence[str]] = field(default_factory=dict)
    controls: Sequence[str] = ()
    marked: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    paper: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)
    printed: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse rows that name a row that is not there."""
        averaged = [name for names in self.means.values() for name in names]
        paired = [name for pair in self.pairs.values() for name in pair]
        for names, known in (
            ((*self.singles, *averaged), list(self.contenders)),
            (self.controls, [*self.linear, *self.tuned]),
            ((*self.marked, *paired), self.rows()),
        ):
            for name in names:
                if name not in known:
                    raise ConfigError(f"there is no row {name!r} to refer to. {suggest(name, known)}")

    def scale(self, budget: str) -> Scale:
        """Return what a budget spends.

        Raises:
            ConfigError: there is none of that name; the nearest is offered.
        """
        return named(budget, self.budgets, "unknown budget")

    def rows(self) -> list[str]:
        """Return every row that is trained, fitted or averaged, in the order of the tables."""
        return [*self.contenders, *self.means, *self.linear, *self.tuned]


@dataclass(frozen=True)
class OutOfFold:
    """A paper's comparison, out of folds.

    Args:
        title: the paper in a line.
        settings: {what `--on` takes: setting}.
        compare: makes tables, sections and pictures of what every patient was given out of folds.
    """

    title: str
    settings: Mapping[str, FoldedSetting]
    compare: Callable[[Scored, FoldedSetting], Compared]

    def setting(self, on: str) -> FoldedSetting:
        """Return the setting called `on`.

        Raises:
            ConfigError: there is none; the nearest is offered.
        """
        return named(on, self.settings, "nothing to reproduce on")


def read_folded_settings(path: Path) -> dict[str, FoldedSetting]:
    """Read the settings of a comparison out of folds from a YAML file; what begins with `_` is there to be merged.

    Raises:
        ConfigError: a key that is no field, or a row that is not there.
    """
    written = files.read_yaml(path)
    return {on: parse(FoldedSetting, v, f"{path.name}: {on}") for on, v in written.items() if not on.startswith("_")}
