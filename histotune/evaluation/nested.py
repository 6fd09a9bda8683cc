"""Nested cross-validation: how good is what a whole search chooses, on patients that the search never saw?

The development part (training and validation part of the study; its sealed test set stays sealed) is dealt into outer
folds by patient. For each, a whole search runs in a study of its own, whose sealed part is the outer fold: it chooses
on the other patients, by inner folds or an inner validation part, and its winner is then evaluated on the outer fold,
on the record. The estimate is the mean over outer folds. It is of the procedure (search this space so long), not of one
configuration, for every outer fold may choose another (Varma & Simon, 2006; Cawley & Talbot, 2010). Its interval is
over other patients; other training patients would change it, too, which no interval sees.

    STUDY/outer/<l>/      the study of an outer fold
        export/           its winner
        outer.npz         what the winner says of the outer fold
        evaluation.json   the same measured, on the record of `sealed/openings.jsonl`
    STUDY/nested.json     what was found
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core import files
from histotune.core.progress import Message, silent
from histotune.core.provenance import utc_time
from histotune.data.cohort import Cohort, select
from histotune.data.fold_assignment import deal_folds
from histotune.data.imbalance import NATURAL
from histotune.data.splits import Split, TrainingData
from histotune.errors import ConfigError, StudyError
from histotune.evaluation._outer_folds import CHUNK, FRESH, Outer, refuse_thinned
from histotune.evaluation.confirmation import chance_in
from histotune.evaluation.sealed import Cohorts, evaluate
from histotune.exports.export import export_trial
from histotune.exports.model import load
from histotune.metrics.bootstrap import over_seeds
from histotune.metrics.intervals import ConfidenceInterval
from histotune.metrics.scores import direction, in_words
from histotune.storage import layout
from histotune.storage.records import Predictions, TrialRecord
from histotune.storage.selection import best_trials
from histotune.storage.study_folder import StudyFolder
from histotune.studies.create import StudyRequest, begin, open_space
from histotune.studies.leaderboard import TRIAL, LeaderboardLine, components
from histotune.studies.options import SearchOptions
from histotune.studies.train_and_search import search
from histotune.tuning.events import SearchSummary
from histotune.tuning.options import Callbacks


@dataclass(frozen=True)
class OuterFold:
    """What one outer search chose, and what that reaches on its outer fold.

    Attributes:
        trial, digest: of the winner in its study; `what` names its backbone and loss.
        inner: the score by which it was chosen.
        score: on the outer fold.
        cases, patients: of the outer fold.
        trials: how many its search ended.
        openings: how often the fold's labels were opened by `evaluate`; more than once when a longer search chose anew.
    """

    outer: int
    trial: int
    digest: str
    what: str
    inner: float
    score: float
    cases: int
    patients: int
    trials: int
    openings: int


@dataclass(frozen=True)
class Nested:
    """What a nested cross-validation found.

    Attributes:
        nested: the estimate, with its interval over patients.
        inner: mean of the winners' inner scores, which chose them and are therefore too good.
        gap: by how much the inner scores look better; positive is too good, whatever the metric's direction.
        folds: one for each outer fold.
        sentence: the same in words.
    """

    study: str
    metric: str
    outer: int
    inner_folds: int
    patients: int
    nested: ConfidenceInterval
    inner: float
    gap: float
    folds: Sequence[OuterFold]
    sentence: str
    command: str = ""
    time: str = field(default_factory=utc_time)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values."""
        return asdict(self)

    def __str__(self) -> str:
        return self.sentence


def nested_search(
    space: str | Path,
    options: SearchOptions,
    callbacks: Callbacks = Callbacks(),
    *,
    outer: int,
    searching: Callable[..., tuple[StudyFolder, SearchSummary | None]] = search,
    message: Message = silent,
    command: str = "",
) -> Nested:
    """Search a space once for each outer fold, and evaluate each winner on its own; the same call goes on.

    Args:
        options: of each search; the study holds one for each outer fold.
        callbacks: of each search.
        outer: how many outer folds, at least 2.
        searching: runs one search, as `train_and_search.search` does.
        message: is called with a line for each outer fold.
        command: the command to record with each opening.

    Raises:
        ConfigError: an option that makes no sense here.
        DataError: fewer patients than folds, or a class in too few of them.
        HistotuneError: as `search`.
    """
    _check(outer, options)
    loaded = open_space(space, options)
    request = StudyRequest(loaded, options.data, **vars(options.protocol))
    thinned = (request.imbalance or loaded.imbalance or NATURAL) != NATURAL or bool(request.training_cases)
    refuse_thinned(options.study or loaded.name, thinned=thinned)
    store, cohorts = begin(request, options.study, options.places)
    whole = Outer(store, cohorts[min(cohorts)], outer)
    dealt = whole.dealt(store.settings.seed + FRESH)
    result: list[OuterFold] = []
    saved: list[Predictions] = []
    with files.lock(store.folder / layout.OUTER / layout.LOCK, "histotune search --outer"):
        _refuse_other_folds(store, outer)
        for number, cut in enumerate(dealt.cuts(), start=1):
            own = _study_of(store, cohorts[min(cohorts)], whole, cut, number)
            message(f"outer fold {number} of {outer}: searching on {len(np.unique(cut.patients[cut.train]))} patients")
            inside = replace(options, study=own.folder.name, places=replace(options.places, runs=own.folder.parent))
            protocol = replace(options.protocol, seed=None)  # each outer study has a seed of its own
            _, ended = searching(space, replace(inside, protocol=protocol), callbacks)
            _refuse_early_end(ended, number)
            one, predictions = _evaluated(own, cohorts, whole.data, number, command)
            message(
                f"outer fold {number} of {outer}: trial {one.trial}, {one.what}, {one.inner:.4f} inside and "
                f"{one.score:.4f} on {one.patients} patients outside"
            )
            result.append(one)
            saved.append(predictions)
        nested = _joined(store, result, saved, whole.data, command)
        files.write_json(store.folder / layout.NESTED, nested.to_dict())
    return nested


def _check(outer: int, options: SearchOptions) -> None:
    """Refuse what makes no sense, before anything is prepared."""
    if outer < 2:
        raise ConfigError(
            f"outer={outer}: there must be at least 2 outer folds, one to score and the others to search on"
        )
    why = {
        "--warm-start": "its trials were chosen with patients of the outer folds, so that the estimate would be too "
        "good",
        "--join": "each outer fold is a search of its own, and one process runs them in turn",
        "--storage": "the outer studies lie in the study's own folder: name one that all nodes see with --runs",
    }
    requested = {
        "--warm-start": options.warm_start is not None,
        "--join": options.join,
        "--storage": options.cluster.storage is not None,
    }
    for name, reason in why.items():
        if requested[name]:
            raise ConfigError(f"--outer does not go with {name}: {reason}")


def _refuse_other_folds(store: StudyFolder, outer: int) -> None:
    """Refuse to mix outer folds of two deals."""
    begun = layout.studies(store.folder / layout.OUTER)
    if not begun:
        return
    before = files.read_json(begun[0] / layout.STUDY)["facts"].get("outer")
    if before != outer:
        raise StudyError(
            f"study {store.folder.name!r} began with {before} outer folds, not {outer}: give the same again to "
            "continue it, or --study NAME to begin a new one"
        )


def _study_of(store: StudyFolder, cohort: Cohort, whole: Outer, cut: TrainingData, number: int) -> StudyFolder:
    """Create the study of an outer fold, whose sealed part is the fold, or find it again."""
    own, settings = StudyFolder(store.folder / layout.OUTER / str(number)), store.settings
    if own.exists():
        return own
    nobody = np.array([], np.int64)
    if settings.folds:
        parts = Split(settings.protocol, cut.train, nobody, cut.val, settings.leaky)
        seed = settings.seed + number
        parts = deal_folds(cohort, whole.data.labels, parts, settings.folds, settings.repeats, seed=seed)
    else:
        inner = whole.carved(cut, number, settings.seed + FRESH)
        parts = Split(settings.protocol, inner.train, inner.val, cut.val, settings.leaky)
    facts = {**settings.facts, "outer": whole.folds}
    named = replace(settings, name=own.folder.name, seed=settings.seed + number, facts=facts)
    own.create(named, cohort, parts, whole.data.labels)
    return own


def _refuse_early_end(ended: SearchSummary | None, number: int) -> None:
    """Stop where a search was interrupted or failed: its winner is not yet the one to evaluate."""
    if ended is None:
        return
    if ended.reason == "interrupted":
        raise KeyboardInterrupt
    if ended.reason == "failures":
        raise StudyError(f"the search of outer fold {number} ended early: {ended.message}")


def _evaluated(
    own: StudyFolder, cohorts: Cohorts, data: TrainingData, number: int, command: str
) -> tuple[OuterFold, Predictions]:
    """Evaluate the winner on its outer fold, on the record; the same winner once only."""
    winner, metric = best_trials(own, 1)[0], own.settings.metric
    model = load(export_trial(own, winner.number, own.folder / "export"))
    path = own.folder / layout.OUTER_PREDICTIONS
    measured = (own.evaluations() or [{}])[-1]
    if measured.get("digest") != model.digest:
        rows = np.flatnonzero(own.split["part"].to_numpy() == "test")
        logits = []
        for start in range(0, len(rows), CHUNK):
            cases = {size: select(one.columns, rows[start : start + CHUNK]) for size, one in cohorts.items()}
            logits.append(np.log(np.maximum(model.probabilities(cases), np.finfo(np.float64).tiny)))
        patients = data.patients[rows]
        Predictions(data.ids[rows], patients, data.labels[rows], np.concatenate(logits)).save(path)
        evaluate(model, cohorts, own, command=command)
        measured = (own.evaluations() or [{}])[-1]
    fold = OuterFold(
        outer=number,
        trial=winner.number,
        digest=winner.digest,
        what=_what(winner),
        inner=winner.metrics[metric],
        score=measured["metrics"][metric]["value"],
        cases=measured["cases"],
        patients=measured["patients"],
        trials=len(own.trials()),
        openings=len(own.openings()),
    )
    return fold, Predictions.load(path)


def _what(record: TrialRecord) -> str:
    loss, backbone = components(LeaderboardLine(TRIAL, str(record.number), record))
    return f"{backbone} {loss}"


def _joined(
    store: StudyFolder, result: Sequence[OuterFold], saved: Sequence[Predictions], data: TrainingData, command: str
) -> Nested:
    settings = store.settings
    metric = settings.metric
    labels, patients = (np.concatenate([getattr(one, name) for one in saved]) for name in ("labels", "patients"))
    probabilities = np.exp(np.concatenate([one.logits for one in saved]))
    of_fold = np.repeat([one.outer for one in result], [len(one.ids) for one in saved])
    scores = over_seeds(metric, [probabilities], labels, patients, positive=data.positive, strata=of_fold)
    nested = scores.interval()
    inner = float(np.mean([one.inner for one in result]))
    gap = direction(metric) * (inner - nested.value)
    name, count = in_words(metric), len(np.unique(patients))
    worse = "".join(f": not significantly better than {it}" for it in chance_in(nested, metric, len(settings.classes)))
    trials = sorted({min(one.trials for one in result), max(one.trials for one in result)})
    sentence = (
        f"What a search of {' to '.join(map(str, trials))} trials chooses reaches {nested} {name} on patients that "
        f"it never saw ({len(result)} outer folds of {count} patients){worse}. Inside the searches the winners scored "
        f"{inner:.3f}, an optimism gap of {gap:+.3f}."
    )
    return Nested(
        study=settings.name,
        metric=metric,
        outer=len(result),
        inner_folds=settings.folds,
        patients=count,
        nested=nested,
        inner=inner,
        gap=gap,
        folds=result,
        sentence=sentence,
        command=command,
    )
