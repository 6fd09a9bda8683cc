"""The names of every file and folder of a study, its trials, its ensembles and their exports, in one place.

runs/<study>/
    study.json             settings, written once
    split.csv              id, patient, content, part; with folds `fold`, and `fold2`, ... for each repeat
    labels.csv             id, label: training and validation part only
    sealed/labels.csv      id, label: test part; `StudyFolder.open_seal` alone reads it
    sealed/openings.jsonl  when, by which command, for which model; and, in a line that follows, the result
    commands.jsonl         when and by which command it was searched
    journal.log            Optuna's journal: the search's only state
    trials/<number>/       config.yaml, curve.jsonl, predictions.npz, model.safetensors, model.json, preprocessing.json,
                           environment.json, and, last, metrics.json; with folds a whole trial folder in folds/<k>/
    singles/<digest>/      single trainings, as trial folders
    controls/<name>/       baselines, as trial folders; test-<digest>.npz has their predictions of the test set
    ensembles/<name>/      merged predictions, as a trial folder, and ensemble.json
    distilled/<name>/      one network trained on an ensemble's out-of-fold probabilities
    seeds/seed-<k>/        trials of an ensemble over seeds, by the number of the trial whose configuration they have
    confirm/               the trainings of `histotune confirm`, and confirm.json
    outer/<k>/             the study of an outer fold; nested.json beside it has the estimate
    evaluation.json        every evaluation of an export
    reproduction.json      what a reproduction measured on the test part; reproduction-<dataset>.json elsewhere
    audit.json             the audit of the data
    warm_start.json        trials of earlier studies that the search began with
    lock                   held by the one process that may search
    trials.json            cache of the ended trials, built anew where it is missing or stale

An export is a folder of export.json, README.md and members/<k>/, each of a trial's config.yaml, model.safetensors,
model.json and preprocessing.json; with one graph of all of it in model.onnx or model.pt2.
"""

from __future__ import annotations

import re
from pathlib import Path

from histotune.errors import ConfigError

# A study.
STUDY, SPLIT, LABELS, SEALED, OPENINGS = "study.json", "split.csv", "labels.csv", "sealed", "openings.jsonl"
COMMANDS, JOURNAL, TRIAL_INDEX, WARM_START, LOCK = (
    "commands.jsonl",
    "journal.log",
    "trials.json",
    "warm_start.json",
    "lock",
)
TRIALS, SINGLES, CONTROLS, ENSEMBLES, DISTILLED = "trials", "singles", "controls", "ensembles", "distilled"
SEEDS = "seeds"
EVALUATION, AUDIT = "evaluation.json", "audit.json"
CONFIRM, CONFIRMATION = "confirm", "confirm.json"
OUTER, NESTED = "outer", "nested.json"

# A trial.
CONFIG, CURVE, ENVIRONMENT = "config.yaml", "curve.jsonl", "environment.json"
PREDICTIONS, OUTER_PREDICTIONS = "predictions.npz", "outer.npz"  # of the validation part; of an outer fold
WEIGHTS, CLASSES, PREPROCESSING = "model.safetensors", "model.json", "preprocessing.json"
RECORD = "metrics.json"  # the last one: once it stands, the trial has ended
CHECKPOINT, KEPT_CHECKPOINTS = "checkpoint.pt", "checkpoint-*.pt"  # the others may be gone on from, by epoch
PARENT = "parent.json"  # the trial that it began from
STOP = "stop"  # the worker that finds it ends the trial there
FOLDS = "folds"  # holds a trial folder for each fold

# An ensemble, and the network that is distilled from it.
ENSEMBLE, DISTILLATION, TEACHER, WHOLE = "ensemble.json", "distilled.json", "teacher.json", "whole"

# An export.
EXPORT, CARD, MEMBERS, ONNX, PT2 = "export.json", "README.md", "members", "model.onnx", "model.pt2"


def trial(number: int) -> str:
    """Return the name of a trial's folder.

    >>> trial(7)
    '00007'
    """
    return f"{number:05d}"


def test_predictions(digest: str) -> str:
    """Return the name of a baseline's predictions of the sealed test set; `digest` names data and cases.

    >>> test_predictions("0123456789ab")
    'test-0123456789ab.npz'
    """
    return f"test-{digest}.npz"


def kept_checkpoint(epoch: int) -> str:
    """Return the name of the checkpoint after `epoch` that other trials may go on from.

    >>> kept_checkpoint(3)
    'checkpoint-00003.pt'
    """
    return KEPT_CHECKPOINTS.replace("*", f"{epoch:05d}")


def reproduction(dataset: str = "") -> str:
    """Return the name of the file with what a reproduction measured on the test part, or on another dataset.

    >>> reproduction("breakhis")
    'reproduction-breakhis.json'
    """
    return f"reproduction-{dataset}.json" if dataset else "reproduction.json"


def studies(runs: Path) -> list[Path]:
    """Return the folders in `runs` that hold a study, by name."""
    return sorted(path.parent for path in runs.glob(f"*/{STUDY}"))


def checked_name(name: str, what: str) -> str:
    """Return `name` if it can be the name of a folder, on every system.

    Args:
        name: as the user wrote it.
        what: is named, for the error.

    Raises:
        ConfigError: it is empty, too long, a path, hidden, or reserved.

    >>> checked_name("idc-32 px", "study")
    'idc-32 px'
    """
    problem = ""
    if not name.strip():
        problem = "it is empty"
    elif len(name.encode()) > _LONGEST_NAME:
        problem = f"it has {len(name.encode())} bytes, and {_LONGEST_NAME} is the most that every file system takes"
    elif wrong := sorted(set(_NOT_IN_NAMES.findall(name))):
        problem = f"it contains {', '.join(map(repr, wrong))}, and a name is no path"
    elif name[0] in ".-~" or name[0].isspace() or name[-1] in ". ":
        problem = "it begins with '.', '-', '~' or a blank, or ends with '.' or a blank"
    elif name.partition(".")[0].upper() in _RESERVED or name.lower() in _BESIDE_STUDIES:
        problem = "the name is reserved"
    if problem:
        raise ConfigError(f"{name!r} cannot name {what}: {problem}. Use letters, digits, '-' and '_'")
    return name


_LONGEST_NAME = 120  # bytes; what is made of it gets endings, and file systems end at 255
_NOT_IN_NAMES = re.compile(r"[/\\<>:\"|?*\x00-\x1f\x7f]")
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{k}" for port in ("COM", "LPT") for k in range(1, 10))}
_BESIDE_STUDIES = {"mlflow.db", "mlflow.lock", "mlruns", "mlartifacts"}
