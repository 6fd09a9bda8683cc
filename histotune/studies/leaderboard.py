"""Trial folders -> one ranked table: trials, baselines and ensembles by the study's metric on the validation set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune import space
from histotune.core.format import number
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import over_seeds
from histotune.metrics.intervals import Difference
from histotune.metrics.pareto import front
from histotune.storage import layout
from histotune.storage.records import TrialRecord, read_parent, read_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.training.pooling import by_repeat

TRIAL, SINGLE, BASELINE, ENSEMBLE = "trial", "single", "control", "ensemble"  # as files and JSON spell them
LEAKY = "leaky reproduction"


@dataclass(frozen=True)
class LeaderboardLine:
    """One line of the table before it is a table.

    Attributes:
        kind: `trial`, `single` (`histotune train`), `control` (a baseline) or `ensemble`.
        name: the trial's number as text, or the folder's name.
    """

    kind: str
    name: str
    record: TrialRecord

    @property
    def title(self) -> str:
        """Kind and name for people."""
        return f"{shown_kind(self.kind)} {self.name}"


def shown_kind(kind: str) -> str:
    """Return the word that people read for a kind of line."""
    return "baseline" if kind == BASELINE else kind


def leaderboard(store: StudyFolder, entries: Sequence[LeaderboardLine] | None = None) -> pd.DataFrame:
    """Rank what has ended, best first; stopped trials stand below, failed ones last, both without a rank.

    A stopped trial had fewer epochs than the others, so its score is not comparable.
    Baselines are ranked among the models.

    Args:
        entries: what `lines(store)` gave, where it was called already; it reads thousands of files at worst.

    Returns:
        One row per line: `rank` (Int64), `kind`, `number` (-1 where there is none), `name`, `state`, the study's
        metric (with folds the mean over folds, and as METRIC_sd its spread), the other metrics, `loss`, `backbone`,
        `epochs`, `best_epoch`, `seconds`, `latency_ms`, `parameters`,
        `front` (in a study of several metrics: on their Pareto front), `digest`,
        `protocol` (which says "leaky reproduction" where patients are on both sides), `note` (why it failed, or which
        trial it continues).
    """
    settings = store.settings
    sign = metrics.direction(settings.metric)
    protocol = f"{settings.protocol} ({LEAKY})" if settings.leaky else settings.protocol
    result = sorted(lines(store) if entries is None else entries, key=lambda line: _order(line, settings.metric, sign))
    fitting = [name for name in metrics.METRICS if metrics.fits(name, len(settings.classes))]
    asked = [name for name in settings.metrics if name in fitting]
    names = [*asked, *(name for name in fitting if name not in asked)]
    board = pd.DataFrame([_row(line, names, protocol) for line in result], columns=_columns(names))
    ranked = np.array([line.record.state == COMPLETE for line in result], dtype=bool)
    if settings.folds:
        spread = [line.record.spread.get(settings.metric, float("nan")) for line in result]
        board.insert(list(board.columns).index(settings.metric) + 1, f"{settings.metric}_sd", spread)
    board.insert(0, "rank", pd.Series(np.cumsum(ranked), dtype="Int64").where(ranked))
    if settings.others:
        trials = (board["kind"].eq(TRIAL) & board["rank"].notna()).to_numpy()
        values = board[settings.metrics].to_numpy(float, copy=True)
        values[~trials] = np.nan
        board.insert(len(board.columns) - 3, "front", front(values, [*map(metrics.direction, settings.metrics)]))
    return board


def option_shares(store: StudyFolder, entries: Sequence[LeaderboardLine] | None = None) -> list[space.Share]:
    """Return how many of the study's ended trials took each option of each switch of its space.

    `entries` is as for `leaderboard`.
    """
    trials = store.trials() if entries is None else [line.record for line in entries if line.kind == TRIAL]
    return space.option_shares(store.settings.space, (record.config() for record in trials))


def lines(store: StudyFolder) -> list[LeaderboardLine]:
    """Return every ended trial, baseline and ensemble, in no particular order."""
    trials = [LeaderboardLine(TRIAL, str(record.number), record) for record in store.trials()]
    named = ((SINGLE, store.singles), (BASELINE, store.controls), (ENSEMBLE, store.ensembles))
    return trials + [line for kind, folder in named for line in _named(kind, folder)]


@dataclass(frozen=True)
class Verdict:
    """Whether the best model is significantly better than another one on the validation set, and a sentence on it.

    Attributes:
        beats: the whole interval of the difference is on the better side of zero.
        difference: best model minus the other in the study's metric; None when there is nothing to compare.
    """

    beats: bool
    text: str
    winner: str = ""
    control: str = ""
    difference: Difference | None = None

    def __str__(self) -> str:
        return self.text


def verdict(
    store: StudyFolder, entries: Sequence[LeaderboardLine] | None = None, *, replicates: int = 2000, seed: int = 0
) -> Verdict:
    """Compare the best trial or ensemble with the best baseline by a paired bootstrap over validation patients.

    The best model was selected on these same cases, so even a significant difference must be confirmed on the sealed
    test set. `entries` is as for `leaderboard`.

    Raises:
        StudyError: the two were scored on different cases.
    """
    settings = store.settings
    sign = metrics.direction(settings.metric)
    result = ranked(store, entries)
    models = [line for line in result if line.kind != BASELINE]
    baselines = [line for line in result if line.kind == BASELINE]
    if not models or not baselines:
        missing = "trial" if not models else "baseline"
        return Verdict(False, f"No comparison with the baselines: no {missing} is complete yet.")
    winner, rival = models[0], baselines[0]
    difference = _compare(store, winner, rival, replicates, seed)
    beats = (difference.low if sign > 0 else -difference.high) > 0
    text = _words(winner, f"the best baseline ({rival.name})", settings.metric, difference, beats)
    if settings.leaky:
        text += f" This is a {LEAKY}: patients are on both sides of the split, so every number is too optimistic."
    return Verdict(beats, text, winner.title, rival.name, difference)


def gain(
    store: StudyFolder, entries: Sequence[LeaderboardLine] | None = None, *, replicates: int = 2000, seed: int = 0
) -> Verdict:
    """Compare the best trial or ensemble with the default configuration, trial 0, as `verdict` does with a baseline.

    `entries` is as for `leaderboard`.

    Raises:
        StudyError: the two were scored on different cases.
    """
    settings = store.settings
    models = [line for line in ranked(store, entries) if line.kind != BASELINE]
    default = next((line for line in models if line.kind == TRIAL and line.record.number == 0), None)
    if default is None:
        return Verdict(False, "No comparison with the default configuration: trial 0 is not complete.")
    if models[0] is default:
        return Verdict(False, "The default configuration (trial 0) is the best model so far.", "trial 0", "trial 0")
    difference = _compare(store, models[0], default, replicates, seed)
    beats = (difference.low if metrics.direction(settings.metric) > 0 else -difference.high) > 0
    text = _words(models[0], "the default configuration (trial 0)", settings.metric, difference, beats)
    return Verdict(beats, text, models[0].title, "trial 0", difference)


def ranked(store: StudyFolder, entries: Sequence[LeaderboardLine] | None = None) -> list[LeaderboardLine]:
    """Return what is complete, best first by the study's metric; `entries` is as for `leaderboard`."""
    metric = store.settings.metric
    complete = (line for line in (lines(store) if entries is None else entries) if line.record.state == COMPLETE)
    return sorted(complete, key=lambda line: _order(line, metric, metrics.direction(metric)))


def _named(kind: str, folder: Path) -> list[LeaderboardLine]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    records = ((path.name, read_record(path)) for path in folders)
    return [LeaderboardLine(kind, name, record) for name, record in records if record is not None]


def _order(line: LeaderboardLine, metric: str, sign: float) -> tuple[int, float, int, str]:
    """Sort key: complete, stopped, the rest; then by metric, an undefined one last; then by number and name."""
    group = {COMPLETE: 0, STOPPED: 1}.get(line.record.state, 2)
    value = sign * line.record.metrics.get(metric, float("nan"))
    return group, float("inf") if np.isnan(value) else -value, line.record.number, line.name


def _columns(names: Sequence[str]) -> list[str]:
    after = ["loss", "backbone", "epochs", "best_epoch", "seconds", "latency_ms", "parameters"]
    return ["kind", "number", "name", "state", *names, *after, "digest", "protocol", "note"]


def _row(line: LeaderboardLine, names: Sequence[str], protocol: str) -> dict[str, Any]:
    record = line.record
    loss, backbone = components(line)
    return {
        "kind": line.kind,
        "number": record.number,
        "name": line.name,
        "state": record.state,
        **{name: record.metrics.get(name, float("nan")) for name in names},
        "loss": loss,
        "backbone": backbone,
        "epochs": record.epochs,
        "best_epoch": record.best_epoch,
        "seconds": record.seconds,
        "latency_ms": record.metrics.get("latency_ms", float("nan")),
        "parameters": record.parameters,
        "digest": record.digest,
        "protocol": protocol,
        "note": f"{record.kind}: {record.reason}" if record.kind else record.reason or _descent(line),
    }


def _descent(line: LeaderboardLine) -> str:
    parent = read_parent(line.record.folder) if line.kind == TRIAL else None
    return f"continues trial {parent.number} after epoch {parent.epoch}" if parent else ""


def components(line: LeaderboardLine) -> tuple[str, str]:
    """Return a trial's loss and backbones, with their modalities if there are several; "" for what is no trial."""
    record = line.record
    if line.kind not in (TRIAL, SINGLE) or not (record.known_config or (record.folder / layout.CONFIG).exists()):
        return "", ""
    config = record.config()
    branches, alone = config["model"]["branches"], config["model"]["fusion"].get("branch")
    several = len({branch["modality"] for branch in branches.values()}) > 1
    observed = [branch for name, branch in branches.items() if not alone or name == alone]
    named = [(branch["backbone"]["name"], branch["modality"]) for branch in observed]
    return config["loss"]["name"], " + ".join(f"{name} ({modality})" if several else name for name, modality in named)


def _compare(
    store: StudyFolder, winner: LeaderboardLine, rival: LeaderboardLine, replicates: int, seed: int
) -> Difference:
    """Return winner minus rival as they are ranked: on the validation set, or on average over the folds."""
    settings = store.settings
    sides = [by_repeat(line.record, settings.repeats) for line in (winner, rival)]
    cases = sides[0][0]
    if any(not np.array_equal(one.ids, cases.ids) for side in sides for one in side):
        raise StudyError(
            f"{winner.title} and {rival.title} were scored on different cases: "
            f"delete {rival.record.folder} and start the study again, which makes it anew"
        )
    strata = None
    if settings.folds:
        table = store.split.set_index("id").loc[cases.ids]
        dealt = [table[name].to_numpy(np.int64) for name in table.columns if name.startswith("fold")]
        strata = np.stack(dealt)
    about: dict[str, Any] = {"positive": settings.positive, "replicates": replicates, "seed": seed, "strata": strata}
    probabilities = [[metrics.softmax(saved.logits) for saved in side] for side in sides]
    one, other = (over_seeds(settings.metric, side, cases.labels, cases.patients, **about) for side in probabilities)
    return one.averaged().minus(other.averaged()).difference()


def _words(winner: LeaderboardLine, rival: str, metric: str, difference: Difference, beats: bool) -> str:
    who, what = winner.title, metrics.in_words(metric)
    low, high = (number(bound, signed=True) for bound in (difference.low, difference.high))
    text = f"{number(difference.value, signed=True)} {what}, 95 % interval {low} to {high}"
    if np.isnan(difference.low):
        return f"No comparison of {who} with {rival}: too few validation patients ({text})."
    worse = (difference.high if metrics.direction(metric) > 0 else -difference.low) < 0
    how = "significantly better" if beats else "significantly worse" if worse else "not significantly better"
    return f"{who[0].upper()}{who[1:]} is {how} than {rival} on the validation set ({text}, over patients)."
