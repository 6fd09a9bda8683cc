"""The contract of a reproduction: which contenders a paper compares, on what, and which numbers it printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from histotune.core import files
from histotune.core.config import Spec, TrialConfig, parse
from histotune.core.registry import Registry
from histotune.data.imbalance import NATURAL, check_imbalance
from histotune.errors import ConfigError, suggest
from histotune.reproductions.papers._published import Published, PublishedTable, published, read_tables
from histotune.space import Space

T = TypeVar("T")


def named(name: str, known: Mapping[str, T], otherwise: str) -> T:
    """Return what is called `name`.

    Raises:
        ConfigError: `otherwise`; the nearest name is offered.
    """
    if name not in known:
        raise ConfigError(f"{otherwise} {name!r}. {suggest(name, known)}")
    return known[name]


@dataclass(frozen=True)
class Scale:
    """What a reproduction spends.

    Args:
        epochs: of every training, in the search and after it.
        trials: of each contender in the search.
        seeds: trainings of each contender's best configuration.
        cases: of the training part at most; 0 takes all.
        imbalances: of those of the setting; none is all.
    """

    epochs: int
    trials: int
    seeds: int
    cases: int = 0
    imbalances: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse to spend nothing."""
        for name, least in (("epochs", 1), ("trials", 1), ("seeds", 1), ("cases", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")


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
        """Return the configuration: the default configuration with what is given here changed.

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
class Setting:
    """Data and networks on which the contenders are compared.

    Args:
        space: shipped search space. Contenders of the reproduction narrow it, and only their own parameters and `seed`
            are searched; of `networks` its default is what is trained.
        budgets: {name of a budget: what it spends}.
        paper: {what: how the paper had it} of what is scaled or changed here, for a person.
        published: {row: what the paper prints}; rows that are no contender are other papers' results.
        notes: what else a reader of the tables must know.
        contenders: those of the reproduction that are compared; none is all.
        published_of: as `published`, of single arms, {arm: {row: ...}}.
        imbalances: what becomes of the training part; several are as many studies.
        external: registered dataset on which the trainings are measured, instead of the sealed test set.
        trained_as: setting whose trainings are measured; "" for its own.
        networks: {row: network}, of a comparison out of folds; the space then has folds and the split `patient_kfold`.
        singles: networks of one modality among which the best is the reference; none that reads its own label.
        patients: modalities that the patients have over whom all are compared.
        means: {row: networks whose probabilities are averaged}.
        linear: {row: modalities of a linear baseline}.
        tuned: the same, with the strength of its penalty chosen inside the training part of every fold.
        controls: rows of `linear` and `tuned` with which all rows are compared, too.
        marked: {row: why it is not compared with the others}.
        pairs: {what is changed: [row with it, row without]}, compared over the same patients.
        other_metrics: {method: what the paper prints of it in other metrics}, in words.
        unpublished: why nothing is printed of other rows and metrics.
        first_trial: where the published values of the contenders' first trials are printed.
        printed_tables: the paper's tables, figures and passages that are about this setting.
    """

    space: str
    budgets: Mapping[str, Scale]
    paper: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)
    published_of: Mapping[str, Mapping[str, Published]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    imbalances: Sequence[str] = (NATURAL,)
    contenders: Sequence[str] = ()
    external: str = ""
    trained_as: str = ""
    networks: Mapping[str, Contender] = field(default_factory=dict)
    singles: Sequence[str] = ()
    patients: Sequence[str] = ()
    means: Mapping[str, Sequence[str]] = field(default_factory=dict)
    linear: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tuned: Mapping[str, Sequence[str]] = field(default_factory=dict)
    controls: Sequence[str] = ()
    marked: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    other_metrics: Mapping[str, str] = field(default_factory=dict)
    unpublished: str = ""
    first_trial: str = ""
    printed_tables: Sequence[PublishedTable] = ()

    def __post_init__(self) -> None:
        """Refuse an unknown imbalance, and rows that name a row that does not exist."""
        for name in self.imbalances:
            check_imbalance(name)
        averaged = [name for names in self.means.values() for name in names]
        paired = [name for pair in self.pairs.values() for name in pair]
        for names, known in (
            ((*self.singles, *averaged), list(self.networks)),
            (self.controls, [*self.linear, *self.tuned]),
            ((*self.marked, *paired), self.rows()),
        ):
            for name in names:
                if name not in known:
                    raise ConfigError(f"there is no row {name!r} to refer to. {suggest(name, known)}")

    def rows(self) -> list[str]:
        """Return every row that is trained, fitted or averaged out of folds, in the order of the tables."""
        return [*self.networks, *self.means, *self.linear, *self.tuned]

    def scale(self, budget: str) -> Scale:
        """Return what a budget spends.

        Raises:
            ConfigError: there is none of that name; the nearest is offered.
        """
        return named(budget, self.budgets, "unknown budget")

    def arms(self, scale: Scale) -> tuple[str, ...]:
        """Return the imbalances of the training part that a budget goes through.

        Raises:
            ConfigError: one is not of this setting.
        """
        for name in scale.imbalances:
            if name not in self.imbalances:
                raise ConfigError(f"no such imbalance here: {name!r}. {suggest(name, self.imbalances)}")
        return tuple(scale.imbalances or self.imbalances)

    def remarks(self) -> list[str]:
        """Return what a reader of the tables must know: the notes, and why numbers are missing."""
        return [*self.notes, *[f"Where no number is published: {self.unpublished}."] * bool(self.unpublished)]

    def printed(self, arm: str) -> Mapping[str, Published]:
        """Return {row: what the paper prints} of an arm."""
        return {**self.published, **self.published_of.get(arm, {})}


@dataclass(frozen=True)
class ComparisonTable:
    """A table of the paper as it is written here.

    Args:
        title: what it compares.
        rows: labels of contenders, ensembles and published rows; those of which nothing is known are left out.
        metrics: its columns, each with what was measured here and what was published of the same metric.
        tested: the metric in which each row is compared with the reference; `holm` corrects over the table's rows.
        note: what a reader must know of it.
        at_threshold: decisions are made at a threshold that each training chose on its validation part by balanced
            accuracy, and not by the class of highest probability (for two classes: at .5).
        elsewhere: it is written where a setting measures on an external dataset, and only there.
    """

    title: str
    rows: Sequence[str]
    metrics: Sequence[str]
    tested: str
    note: str = ""
    at_threshold: bool = False
    elsewhere: bool = False


@dataclass(frozen=True)
class Reproduction:
    """A paper's comparison.

    Args:
        title: the paper in a line.
        settings: {what `--on` takes: setting}.
        contenders: {row: `--fix` edits that narrow the setting's space to it}; searched on the validation part.
        reference: the contender with which all are compared.
        members: contenders whose trainings of one seed make an ensemble.
        ensembles: {row: registered ensemble}.
        tables: what is written, in order.
        figures: registered figures of the study that are drawn.
        confused: rows whose confusions on the test set are drawn.
        costs: whether a table says what each contender's network costs to use.
        compare: how cases are scored: None on a sealed test set or an external dataset; else out of folds, and this
            makes a `Comparison` of the `OutOfFoldPredictions` of the setting's networks.
    """

    title: str
    settings: Mapping[str, Setting]
    contenders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reference: str = ""
    members: Sequence[str] = ()
    ensembles: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[ComparisonTable] = ()
    figures: Sequence[str] = ()
    confused: Sequence[str] = ()
    costs: bool = False
    compare: Callable[[Any, Setting], Any] | None = None

    def setting(self, on: str) -> Setting:
        """Return the setting called `on`.

        Raises:
            ConfigError: there is none; the nearest is offered.
        """
        return named(on, self.settings, "nothing to reproduce on")

    def written(self, *, elsewhere: bool) -> list[ComparisonTable]:
        """Return the tables of the study's own test part, or those of an external dataset."""
        return [table for table in self.tables if table.elsewhere == elsewhere]


REPRODUCTIONS: Registry[Reproduction] = Registry("reproduction", "histotune.reproductions.papers")


def read_settings(path: Path) -> dict[str, Setting]:
    """Read the settings of a reproduction, published values among them, from a YAML file.

    What begins with `_` is there to be merged into others, but `_paper`, the published tables cell by cell: what they
    print stands beside the rows of the settings that each of them names.

    Raises:
        ConfigError: a key that is no field, a metric that is none, a number without its source, or a row
            that does not exist.
    """
    written = files.read_yaml(path)
    tables = read_tables(written.get("_paper", {}), path.name)
    settings = {
        on: parse(Setting, values, f"{path.name}: {on}") for on, values in written.items() if not on.startswith("_")
    }
    for on in (on for table in tables for on in table.settings):
        named(on, settings, f"{path.name}: published numbers of an unknown setting")
    return {
        on: _with_tables(setting, [one for one in tables if on in one.settings]) for on, setting in settings.items()
    }


def published_tables(path: Path) -> list[PublishedTable]:
    """Return the published tables, figures and passages that the YAML file of a reproduction has."""
    return read_tables(files.read_yaml(path).get("_paper", {}), path.name)


def _with_tables(setting: Setting, tables: Sequence[PublishedTable]) -> Setting:
    arms = {arm: [one for one in tables if one.arm == arm] for arm in dict.fromkeys(one.arm for one in tables)}
    of = {arm: {**published(own, setting.unpublished)} for arm, own in arms.items()}
    everywhere = {**setting.published, **of.pop("", {})}
    return replace(setting, printed_tables=tables, published=everywhere, published_of={**setting.published_of, **of})
