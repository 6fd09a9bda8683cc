"""Baselines, which every model should beat on the same split: majority class, colour histogram, linear models.

A baseline is fitted on the training part only and deterministic, so nothing but its predictions is saved: for other
cases it is fitted again, in seconds, and no pickle is ever read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from histotune.core import files
from histotune.core.provenance import short_digest
from histotune.data.modalities import MODALITIES
from histotune.data.splits import TrainingData
from histotune.errors import ConfigError, StudyError, suggest
from histotune.storage import layout
from histotune.storage.records import Predictions, TrialRecord, read_record, write_record
from histotune.storage.study_folder import COMPLETE
from histotune.training.pooling import pooled, scored

MAJORITY, COLOR_HISTOGRAM, LINEAR, JOINED = "majority_class", "color_histogram", "linear_", "joined"
BINS, JOINT_BINS = 16, 4  # per channel, and per channel of the joint histogram
LEAST = 1e-7  # the least probability that a baseline gives a class
FEW_CASES = 20_000  # below, one thread takes seconds; more would spin when others use the cores
CHUNK = 2048  # images whose histograms are counted at once
COMPONENTS = 60  # of a linear baseline, at most
STRENGTH = 0.1  # C of its logistic regression: squared weights count ten times as much as by default
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # where C is chosen inside the training part
INNER = 5  # folds of that choice
STEPS = 5000  # of its logistic regression, at most
SEED = 0
IMAGE = "image"  # the kind of modality that has colour


def control_names(data: TrainingData) -> list[str]:
    """Return the baselines that these data allow.

    Colour needs a modality of RGB images; `linear_NAME` is of any other modality, `linear_joined` of all there are.
    """
    return [MAJORITY, *([COLOR_HISTOGRAM] if _images(data) else []), *_linear_controls(data)]


def fit_controls(data: TrainingData, folder: Path, *, test: np.ndarray | None = None) -> list[TrialRecord]:
    """Fit every baseline and write it as a trial folder `folder/<name>`; one that stands there is read, not refitted.

    Args:
        data: to fit on.
        folder: of the baselines.
        test: rows of the sealed test set, whose logits the same fits give; they are kept for `kept_predictions`.

    Returns:
        One record per baseline with its validation metrics, as of a trial (`number` -1).
    """
    return [read_record(folder / name) or _fit_control(name, data, folder / name, test) for name in control_names(data)]


def fit_linear(
    data: TrainingData, folder: Path, modalities: Sequence[str], strengths: Sequence[float] = (STRENGTH,)
) -> TrialRecord:
    """Fit the linear baseline of some modalities and write it as a trial folder; one that stands there is only read.

    Args:
        data: with its modalities; a case that has none of them gets the class shares of the training part.
        folder: of the baseline.
        strengths: C of the logistic regression; of several, the one of highest AUROC in a cross-validation of the
            training part, grouped by patient.

    Raises:
        ConfigError: a modality that these data lack.
    """
    for name in modalities:
        if name not in data.present:
            raise ConfigError(
                f"no linear baseline of {name!r}: the cohort has no such modality. {suggest(name, data.present)}"
            )
    config = {"control": folder.name, "modalities": list(modalities), "strengths": list(strengths), "seed": SEED}

    def fitted(one: TrainingData) -> np.ndarray:
        return _logits(_linear(one, one.val, modalities, strengths))

    return read_record(folder) or _fit_one(config, fitted, data, folder)


def predict_control(name: str, data: TrainingData, rows: np.ndarray) -> np.ndarray:
    """Fit the baseline on the training part and return its logits for `rows`, float32 [n, C].

    With folds it is fitted for each of them, as every model is, and the logits are averaged.

    Raises:
        ConfigError: there is no such baseline for these data.
    """
    known = control_names(data)
    if name not in known:
        raise ConfigError(f"unknown baseline {name!r}. {suggest(name, known)}")
    if cuts := data.cuts():
        return np.mean([predict_control(name, cut, rows) for cut in cuts], axis=0)
    linear = _linear_controls(data)
    probabilities = _linear(data, rows, linear[name]) if name in linear else _CONTROLS[name](data, rows)
    return _logits(probabilities)


def kept_predictions(name: str, data: TrainingData, rows: np.ndarray, folder: Path) -> np.ndarray:
    """Return `predict_control`, made once: the logits are kept in `folder`, named by data and cases.

    A file that is damaged is made anew: fitting is deterministic. No label is kept but those that `data` hold.
    """
    try:
        return Predictions.load(_kept(name, data, rows, folder)).logits
    except StudyError:
        logits = predict_control(name, data, rows)
        _keep(name, data, rows, folder, logits)
        return logits


def color_histograms(images: np.ndarray) -> np.ndarray:
    """Count colours of uint8 [n, H, W, 3]: 16 bins per channel and 4 x 4 x 4 jointly, as shares, float32 [n, 112]."""
    n, pixels = len(images), images.shape[1] * images.shape[2]
    flat = images.reshape(n, pixels, 3)
    single = (flat // (256 // BINS)).astype(np.int32) + BINS * np.arange(3, dtype=np.int32)  # [n, pixels, 3]
    coarse = (flat // (256 // JOINT_BINS)).astype(np.int32)
    joint = coarse @ np.array([JOINT_BINS**2, JOINT_BINS, 1], dtype=np.int32)  # [n, pixels]
    counts = [_count(single.reshape(n, 3 * pixels), 3 * BINS), _count(joint, JOINT_BINS**3)]
    return (np.concatenate(counts, axis=1) / pixels).astype(np.float32)


def _fit_one(
    config: Mapping[str, Any], fitted: Callable[[TrainingData], np.ndarray], data: TrainingData, folder: Path
) -> TrialRecord:
    """Write the validation predictions of a baseline that is `fitted` to each training part."""
    started, clock = time.time(), time.perf_counter()
    saved = [
        Predictions(one.ids[one.val], one.patients[one.val], one.labels[one.val], fitted(one))
        for one in data.cuts() or [data]
    ]
    seconds = time.perf_counter() - clock
    files.write_text(folder / layout.CONFIG, yaml.safe_dump(dict(config)))
    together = pooled(saved) if len(saved) > 1 else saved[0]
    together.save(folder / layout.PREDICTIONS)
    write_record(
        folder,
        {
            "state": COMPLETE,
            "digest": short_digest(config),
            **scored(saved, together, data.positive),
            "seconds": seconds,
            "started": started,
        },
    )
    record = read_record(folder)
    assert record is not None
    return record


def _fit_control(name: str, data: TrainingData, folder: Path, test: np.ndarray | None) -> TrialRecord:
    """Fit a baseline once for its validation part and the rows `test`, whose logits are kept before the record is."""
    of_test: list[np.ndarray] = []

    def fitted(one: TrainingData) -> np.ndarray:
        if test is None:
            return predict_control(name, one, one.val)
        logits = predict_control(name, one, np.concatenate([one.val, test]))
        of_test.append(logits[len(one.val) :])
        if len(of_test) == len(data.cuts() or [data]):
            _keep(name, data, test, folder, np.mean(of_test, axis=0) if data.cuts() else logits[len(one.val) :])
        return logits[: len(one.val)]

    return _fit_one({"control": name, "seed": SEED}, fitted, data, folder)


def _kept(name: str, data: TrainingData, rows: np.ndarray, folder: Path) -> Path:
    """Return where a baseline's logits of `rows` are kept: one file for these data and these cases."""
    return folder / layout.test_predictions(short_digest([name, data.digest, data.ids[rows].tolist()]))


def _keep(name: str, data: TrainingData, rows: np.ndarray, folder: Path, logits: np.ndarray) -> None:
    saved = Predictions(data.ids[rows], data.patients[rows], data.labels[rows], logits)
    saved.save(_kept(name, data, rows, folder))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    scores: np.ndarray = np.log(np.maximum(probabilities, LEAST)).astype(np.float32)
    return scores


def _majority(data: TrainingData, rows: np.ndarray) -> np.ndarray:
    """Give every case the class shares of the training part."""
    counts = np.asarray(data.counts, dtype=np.float64)
    return np.tile(counts / counts.sum(), (len(rows), 1))


def _color_boosting(data: TrainingData, rows: np.ndarray) -> np.ndarray:
    """Boost trees on colour histograms, classes weighted to count alike."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # here: scikit-learn costs a command over a second
    from threadpoolctl import threadpool_limits  # scikit-learn's own dependency

    booster = HistGradientBoostingClassifier(
        max_iter=150,
        learning_rate=0.05,
        max_leaf_nodes=15,
        early_stopping=False,
        class_weight="balanced",
        random_state=SEED,
    )
    few = len(data.train) < FEW_CASES
    with threadpool_limits(1 if few else None, user_api="openmp"):
        booster.fit(_features(data, data.train), data.labels[data.train])
        probabilities = np.zeros((len(rows), len(data.classes)))
        probabilities[:, booster.classes_] = booster.predict_proba(_features(data, rows))
    return probabilities


def _linear(
    data: TrainingData, rows: np.ndarray, modalities: Sequence[str], strengths: Sequence[float] = (STRENGTH,)
) -> np.ndarray:
    """Impute means, scale, take principal components, and fit logistic regression, classes weighted to count alike.

    A case without any of the modalities gets the class shares of the training part.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    observed = np.any([data.present[name] for name in modalities], axis=0)
    train, here = data.train[observed[data.train]], observed[rows]
    probabilities = _majority(data, rows)
    if len(np.unique(data.labels[train])) < 2 or not here.any():
        return probabilities
    known, asked = _summaries(data, modalities, train), _summaries(data, modalities, rows[here])
    counts = np.maximum((~np.isnan(known)).sum(axis=0), 1)
    means = np.nansum(known, axis=0) / counts
    known, asked = (np.where(np.isnan(values), means, values) for values in (known, asked))
    fewest = len(known) if len(strengths) == 1 else len(known) * (INNER - 1) // INNER - INNER
    components = max(1, min(COMPONENTS, fewest - 1, known.shape[1] - 1))
    model = make_pipeline(
        StandardScaler(),
        PCA(components, random_state=SEED),
        LogisticRegression(C=strengths[0], class_weight="balanced", max_iter=STEPS),
    )
    if len(strengths) > 1:
        dealt = StratifiedGroupKFold(INNER, shuffle=True, random_state=SEED)
        grid = {"logisticregression__C": list(strengths)}
        model = GridSearchCV(model, grid, scoring="roc_auc_ovr", cv=dealt)
        model.fit(known, data.labels[train], groups=data.patients[train])
    else:
        model.fit(known, data.labels[train])
    probabilities[here] = 0.0
    probabilities[np.ix_(here, model.classes_)] = model.predict_proba(asked)
    return probabilities


_CONTROLS: Mapping[str, Callable[[TrainingData, np.ndarray], np.ndarray]] = {
    MAJORITY: _majority,
    COLOR_HISTOGRAM: _color_boosting,
}


def _linear_controls(data: TrainingData) -> dict[str, list[str]]:
    """Return the linear baselines and the modalities that each reads; images alone have colour."""
    columns = data.columns
    others = [name for name in sorted(columns) if columns[name].kind != IMAGE]
    controls = {f"{LINEAR}{name}": [name] for name in others}
    return controls | ({f"{LINEAR}{JOINED}": sorted(columns)} if others and len(columns) > 1 else {})


def _summaries(data: TrainingData, modalities: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Put the plain numbers of several modalities side by side, float64 [n, F]; NaN where one is absent."""
    columns, blocks = data.columns, []
    for name in modalities:
        column = columns[name]
        result = MODALITIES.build(column.kind).summary(column.stored, rows).astype(np.float64)
        result[~column.present[rows]] = np.nan
        blocks.append(result)
    return np.concatenate(blocks, axis=1)


def _images(data: TrainingData) -> list[str]:
    """Name the modalities of RGB images."""
    return sorted(name for name, column in data.columns.items() if column.kind == IMAGE)


def _features(data: TrainingData, rows: np.ndarray) -> np.ndarray:
    """Put the histograms of all image modalities side by side, [n, F]; NaN where one is absent: trees can use it."""
    columns = []
    for name in _images(data):
        result = np.full((len(rows), 3 * BINS + JOINT_BINS**3), np.nan, np.float32)
        here = np.flatnonzero(data.present[name][rows])
        for start in range(0, len(here), CHUNK):  # never the whole memory-mapped array at once
            chunk = here[start : start + CHUNK]
            result[chunk] = color_histograms(data.arrays[name][rows[chunk]])
        columns.append(result)
    return np.concatenate(columns, axis=1)


def _count(codes: np.ndarray, width: int) -> np.ndarray:
    """Count each code 0..width-1 in each row of codes [n, k]: [n, width]."""
    rows = np.arange(len(codes))[:, None] * width
    return np.bincount((codes + rows).ravel(), minlength=len(codes) * width).reshape(-1, width)
