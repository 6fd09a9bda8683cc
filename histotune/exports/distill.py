"""One student for a whole ensemble: trained to say what the ensemble said of cases that its members never saw.

The teacher's probabilities of a training case must be held out: of the cases that they were trained on, members are so
sure that nothing but the labels would be left to learn. Out of folds, every case of the development part has such
probabilities. Without folds the validation part alone has them, so that there is nothing to train a student on, and a
study without folds is refused.

The student is described out of folds as its teacher is: fold by fold, one is trained on the other folds' cases. Their
soft targets come from networks that did see the fold that is scored, which lends a student a little of what those know:
only the sealed test set settles the comparison. What is exported is one more network, trained on all folds; as in
scikit-learn's `CalibratedClassifierCV(ensemble=False)`, its temperature and threshold are those found out of folds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.core.progress import Progress
from histotune.data.cohort import Cohort
from histotune.data.splits import TrainingData
from histotune.ensembles.crossfit import temperature_of
from histotune.ensembles.merge import EnsembleResult
from histotune.errors import ConfigError, StudyError
from histotune.exports.export import describe_single, write_export
from histotune.exports.onnx import check_packages
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import paired_bootstrap, patient_bootstrap
from histotune.metrics.calibration import tempered
from histotune.metrics.intervals import ConfidenceInterval, Difference
from histotune.metrics.operating_points import OperatingPoint
from histotune.storage import layout
from histotune.storage.records import Predictions, TrialRecord, read_ensemble
from histotune.storage.selection import complete_trial
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.training.cross_validation import Fold
from histotune.training.loop import run_trial
from histotune.training.soft_targets import taught

TRUST = 0.7


@dataclass(frozen=True)
class Distilled:
    """A student beside its teacher and the best trial, all of them out of folds, in the study's metric.

    Attributes:
        folder: where its trainings are.
        ensemble: name of its teacher.
        student: the trial whose configuration it has, but for the loss.
        trust: weight of the teacher's probabilities; the rest is that of the labels.
        values: {"student" | "ensemble" | "best_member": interval over patients}.
        gains: {"ensemble" | "best_member": student minus it, paired by patient}.
        parameters: of the student and of all members together.
    """

    folder: Path
    ensemble: str
    student: int
    trust: float
    metric: str
    values: Mapping[str, ConfidenceInterval]
    gains: Mapping[str, Difference]
    parameters: tuple[int, int]
    how: Mapping[str, Any]


def distill(
    store: StudyFolder,
    merged: EnsembleResult,
    cohort: Callable[[int], Cohort],
    *,
    student: int | None = None,
    trust: float = TRUST,
    operating_point: str | OperatingPoint | None = None,
    export: Path | None = None,
    onnx: bool = False,
    torch_export: bool = False,
    progress: Progress | None = None,
) -> Distilled:
    """Train a student of an ensemble (Hinton et al., 2015) and, if asked, export it as a model of one network.

    Its loss is the cross-entropy against `trust` x the teacher's probabilities + (1 - `trust`) x the label, which is,
    but for a constant, that mixture of the divergence from the teacher and the cross-entropy of the label.

    Args:
        merged: the teacher.
        cohort: image size, pixels -> the study's data.
        student: the trial whose configuration the student takes; None takes the cheapest member.
        trust: in (0, 1].
        operating_point: as in `merge`.
        export: folder to write; `onnx` with an ONNX graph, `torch_export` with a torch.export program.
        progress: is called with how many epochs are trained.

    Raises:
        StudyError: the study has no folds, the trial is not complete, or the student's training failed.
        ConfigError: `trust` is not in (0, 1].
    """
    if not 0 < trust <= 1:
        raise ConfigError(f"trust={trust}: the weight of the teacher lies between 0 and 1, such as {TRUST}")
    check_distillable(store, student, onnx=onnx, graphs=onnx or torch_export, exported=export is not None)
    model = _student(store, merged, student)
    config = TrialConfig.from_dict({**model.config(), "loss": {"name": "cross_entropy"}})
    teacher = Predictions.load(merged.folder / layout.PREDICTIONS)
    data = taught(store.training_data(cohort(config.image_size)), teacher, trust)
    folder = store.folder / layout.DISTILLED / f"{merged.name}-{model.number}"
    _begin(folder, {"ensemble": merged.digest, "trust": trust, "student": model.digest})
    record = _trained(config, data, folder, store, None, progress)
    how, temperature = describe_single(store, record.predictions(), operating_point)
    result = _compared(store, merged, model, record, temperature, teacher)
    distilled = Distilled(folder, merged.name, model.number, trust, store.settings.metric, **result, how=how)
    if export is not None:
        rows = np.flatnonzero(data.folds[0]) if data.folds is not None else data.train
        whole = replace(data, folds=None, train=rows, val=data.cuts()[0].val)  # whose score means nothing
        network = _trained(config, whole, folder / layout.WHOLE, store, Fold(folder / layout.WHOLE, 1), progress)
        network = replace(network, number=model.number, metrics=record.metrics)
        text = {"kind": "trial", "name": f"{store.settings.name}-student-of-{merged.name}", **how}
        text["distilled"] = _told(distilled)
        write_export(store, export, text, [network], [temperature], onnx=onnx, torch_export=torch_export)
    files.write_json(folder / layout.DISTILLATION, _told(distilled))
    return distilled


def check_distillable(
    store: StudyFolder, student: int | None, *, onnx: bool = False, graphs: bool = False, exported: bool = True
) -> None:
    """Refuse, before anything is combined or trained, what cannot be distilled.

    Raises:
        StudyError: the study has no folds, or the student's trial is not complete.
        ConfigError: ONNX is asked for without its packages, or without a folder.
    """
    settings = store.settings
    if not settings.folds:
        raise StudyError(
            f"study {settings.name!r} has no folds, so that its trials have held-out predictions of the validation "
            "part alone, and a student needs them of the cases that it is trained on: search with `--folds 5 --study "
            f"{settings.name}_folds`, then distill that study's ensemble"
        )
    if student is not None:
        complete_trial(store, student)
    if onnx:
        check_packages()
    if graphs and not exported:
        raise ConfigError("a graph of the model lies in an export folder: name one (export=FOLDER, --export FOLDER)")


def _student(store: StudyFolder, merged: EnsembleResult, number: int | None) -> TrialRecord:
    """Return the trial whose configuration is taken: as asked, or the member that costs least."""
    if number is not None:
        return complete_trial(store, number)
    studies = merged.studies or ("",) * len(merged.members)
    own = [complete_trial(store, at) for at, study in zip(merged.members, studies, strict=True) if not study]
    if not own:
        raise StudyError(f"no member of {merged.name} is of this study: name a trial (--student NUMBER)")
    if all("latency_ms" in member.metrics for member in own):
        return min(own, key=lambda member: (member.metrics["latency_ms"], member.number))
    return min(own, key=lambda member: (member.parameters, member.number))


def _begin(folder: Path, stamp: Mapping[str, Any]) -> None:
    """Make room for a student; that of another ensemble of the same name, or of other targets, goes."""
    path = folder / layout.TEACHER
    if folder.exists() and (not path.exists() or files.read_json(path) != stamp):
        shutil.rmtree(folder)
    files.write_json(path, dict(stamp))


def _trained(
    config: TrialConfig,
    data: TrainingData,
    folder: Path,
    store: StudyFolder,
    fold: Fold | None,
    progress: Progress | None,
) -> TrialRecord:
    what = "training the student on all folds" if fold else "training the student fold by fold"

    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        if progress is not None:
            progress(what, epoch, config.epochs)

    record = run_trial(config, data, folder, report, metric=store.settings.metric, fold=fold, probed=False)
    if record.state != COMPLETE:
        raise StudyError(f"the student's training is {record.state}: {record.kind}, {record.reason}")
    return record


def _compared(
    store: StudyFolder,
    merged: EnsembleResult,
    model: TrialRecord,
    record: TrialRecord,
    temperature: float,
    teacher: Predictions,
) -> dict[str, Any]:
    """Measure student, ensemble and best member on the same cases, out of folds."""
    settings, saved = store.settings, record.predictions()
    studies = merged.studies or ("",) * len(merged.members)
    members = [_member(store, *one) for one in zip(merged.members, studies, strict=True)]
    written = read_ensemble(merged.folder)
    best = _member(store, int(written["best_member"]), written.get("best_member_study", "")).predictions()
    there = best.has_input
    calibrated = temperature_of(best.logits[there], best.labels[there], best.patients[there])
    sides = {"student": (saved, temperature), "ensemble": (teacher, 1.0), "best_member": (best, calibrated)}
    order = {name: at for at, name in enumerate(saved.ids.tolist())}
    probabilities = {}
    for who, (message, by) in sides.items():
        rows = np.argsort([order[name] for name in message.ids.tolist()])
        probabilities[who] = tempered(metrics.softmax(message.logits[rows]), by)
    cases = (saved.labels, saved.patients)
    about: dict[str, Any] = {"positive": settings.positive}
    return {
        "values": {
            who: patient_bootstrap(settings.metric, result, *cases, **about) for who, result in probabilities.items()
        },
        "gains": {
            rival: paired_bootstrap(settings.metric, probabilities["student"], probabilities[rival], *cases, **about)
            for rival in ("ensemble", "best_member")
        },
        "parameters": (model.parameters, sum(member.parameters for member in members)),
    }


def _member(store: StudyFolder, number: int, study: str) -> TrialRecord:
    """Return a member, which is of another study where one is named."""
    return complete_trial(store.of_member(study), number)


def _told(distilled: Distilled) -> dict[str, Any]:
    """Return what is written of a student."""
    text = asdict(distilled)
    text.pop("how")
    return text | {"folder": distilled.folder.name}
