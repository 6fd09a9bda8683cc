"""Trial folders -> one ranked table: trials, controls and ensembles by the study's metric on the validation part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune import space
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import paired_bootstrap
from histotune.metrics.intervals import Difference
from histotune.metrics.pareto import front
from histotune.storage import layout
from histotune.storage.records import TrialRecord, read_parent, read_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder

TRIAL, SINGLE, CONTROL, ENSEMBLE = "trial", "single", "control", "ensemble"
LEAKY = "leaky reproduction"


@dataclass(frozen=True)
class LeaderboardLine:
    """One line of the table before it is a table.

    Attributes:
        kind: `trial`, `single` (`histotune train`), `control` or `ensemble`.
        name: the trial's number as text, or the folder's name.
    """

    kind: str
    name: str
    record: TrialRecord


def leaderboard(store: StudyFolder, entries: Sequence[LeaderboardLine] | None = None) -> pd.DataFrame:
    """Rank what has ended, best first; stopped trials stand below, failed ones last, both without a rank.

    A stopped trial had fewer epochs than the others, so its number says little about what it would have reached.
    Controls are ranked among the models they are there to judge.

    Args:
        entries: what `lines(store)` gave, where it was called already; it reads thousands of files at worst.

    Returns:
        One row per line: `rank` (Int64), `kind`, `number` (-1 where there is none), `name`, `state`, the study's
        metric (with folds the mean over folds, and as METRIC_sd its spread), the other metrics, `loss`, `backbone`,
        `epochs`, `best_epoch`, `seconds`, `latency_ms`, `parameters`,
        `front` (in a study of several metrics: on their Pareto front), `digest`,
        `protocol` (which says "leaky reproduction" where patients stand on both sides), `note` (why it failed, or which
        trial it goes on from).
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
    """Return every ended trial, control and ensemble, in no particular order."""
    trials = [LeaderboardLine(TRIAL, str(record.number), record) for record in store.trials()]
    named = ((SINGLE, store.singles), (CONTROL, store.controls), (ENSEMBLE, store.ensembles))
    return trials + [line for kind, folder in named for line in _named(kind, folder)]


@dataclass(frozen=True)
class Verdict:
    """Whether the best model beats the best control on the validation part, and in which words.

    Attributes:
        beats: the whole interval of the difference is on the better side of zero.
        difference: winner minus control in the study's metric; None when there is nothing to compare.
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
    """Compare the best trial or ensemble with the best control by a paired bootstrap over validation patients.

    The winner was chosen on these very cases among many, so even "beats" is a hope that the sealed test part must
    confirm. `entries` is as for `leaderboard`.

    Raises:
        StudyError: the two were scored on different cases.
    """
    settings = store.settings
    sign = metrics.direction(settings.metric)
    result = ranked(store, entries)
    models = [line for line in result if line.kind != CONTROL]
    controls = [line for line in result if line.kind == CONTROL]
    if not models or not controls:
        return Verdict(False, f"No verdict: there is no complete {'trial' if not models else 'control'} yet.")
    winner, control = models[0], controls[0]
    difference = _compare(winner, control, settings.metric, settings.positive, replicates, seed)
    beats = (difference.low if sign > 0 else -difference.high) > 0
    text = _words(winner, f"the best control, {control.name}", settings.metric, difference, beats)
    if settings.leaky:
        text += f" This is a {LEAKY}: patients stand on both sides of the split, so no number here is honest."
    return Verdict(beats, text, f"{winner.kind} {winner.name}", control.name, difference)


def gain(
    store: StudyFolder, entries: Sequence[LeaderboardLine] | None = None, *, replicates: int = 2000, seed: int = 0
) -> Verdict:
    """Compare the best trial or ensemble with the space's default, which is trial 0, as `verdict` does with a control.

    `entries` is as for `leaderboard`.

    Raises:
        StudyError: the two were scored on different cases.
    """
    settings = store.settings
    models = [line for line in ranked(store, entries) if line.kind != CONTROL]
    default = next((line for line in models if line.kind == TRIAL and line.record.number == 0), None)
    if default is None:
        return Verdict(False, "Whether the search beats the space's default is unknown: trial 0 is not complete.")
    if models[0] is default:
        return Verdict(False, "The space's default, trial 0, is the best model so far.", "trial 0", "trial 0")
    difference = _compare(models[0], default, settings.metric, settings.positive, replicates, seed)
    beats = (difference.low if metrics.direction(settings.metric) > 0 else -difference.high) > 0
    text = _words(models[0], "the space's default, trial 0", settings.metric, difference, beats)
    return Verdict(beats, text, f"{models[0].kind} {models[0].name}", "trial 0", difference)


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
    return f"goes on from {parent.number} after epoch {parent.epoch}" if parent else ""


def components(line: LeaderboardLine) -> tuple[str, str]:
    """Name a trial's loss and the backbones that it hears, of what if there is a choice; "" for what is no trial."""
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
    winner: LeaderboardLine, control: LeaderboardLine, metric: str, positive: int, replicates: int, seed: int
) -> Difference:
    first, second = winner.record.predictions(), control.record.predictions()
    if not np.array_equal(first.ids, second.ids):
        raise StudyError(
            f"{winner.kind} {winner.name} and {control.kind} {control.name} were scored on different cases: "
            f"delete {control.record.folder} and start the study again, which makes it anew"
        )
    return paired_bootstrap(
        metric,
        metrics.softmax(first.logits),
        metrics.softmax(second.logits),
        first.labels,
        first.patients,
        positive=positive,
        replicates=replicates,
        seed=seed,
    )


def _words(winner: LeaderboardLine, rival: str, metric: str, difference: Difference, beats: bool) -> str:
    who, what = f"{winner.kind} {winner.name}", metrics.in_words(metric)
    interval = f"{difference.value:+.3f} {what}, 95 % interval {difference.low:+.3f} to {difference.high:+.3f}"
    if np.isnan(difference.low):
        return f"No verdict on {who} against {rival}: too few validation patients ({interval})."
    worse = (difference.high if metrics.direction(metric) > 0 else -difference.low) < 0
    does = "beats" if beats else "is worse than" if worse else "does not beat"
    return f"{who[0].upper()}{who[1:]} {does} {rival}, beyond noise ({interval}, by patient)."
