"""Items of TRIPOD+AI and CLAIM, answered from the study's files where possible; the authors fill in the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from histotune.core.format import counted, duration, interval
from histotune.metrics.scores import in_words
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings
from histotune.reporting.sections.provenance import class_counts
from histotune.storage.seal import SEALED

Answer = Callable[[Findings], str | None]


class ChecklistItem(NamedTuple):
    """A topic of the two guidelines, its number in TRIPOD+AI, and the function that answers it."""

    topic: str
    number: str
    answer: Answer | None = None


@SECTIONS.register("checklist")
class Checklist(Section):
    """What TRIPOD+AI and CLAIM ask for, with what the study's files say."""

    title = "Reporting checklist"
    order = 140

    def build(self, findings: Findings) -> Content:
        """Answer every item that the files of the study can answer."""
        answers = [(item, item.answer(findings) if item.answer else None) for item in ITEMS]
        known = sum(answer is not None for _, answer in answers)
        text = (
            f"Topics of TRIPOD+AI (Collins et al., BMJ 2024; with its item numbers) and CLAIM (Tejani et al., "
            f"Radiology: Artificial Intelligence 2024), paraphrased. The files of this study answer {known} of "
            f"{len(answers)}; the authors of a publication state the rest."
        )
        rows = [[item.topic, item.number, answer] for item, answer in answers]
        return Content(
            html.joined(
                [
                    html.paragraph(text),
                    html.table("Checklist.", ["topic", "TRIPOD+AI", "answer"], rows, stacked=True),
                ]
            )
        )


def _source(findings: Findings) -> str | None:
    facts = findings.settings.facts
    parts = [facts.get("title"), facts.get("source"), f"licence: {facts['licence']}" if facts.get("licence") else ""]
    return "; ".join(str(part) for part in parts if part) or None


def _size(findings: Findings) -> str:
    parts = {
        name: findings.source.part(key)
        for name, key in {"training": "train", "validation": "val", "sealed test": "test"}.items()
    }
    text = (f"{name} {cases:,} cases of {patients:,} patients" for name, (cases, patients) in parts.items() if cases)
    return "; ".join(text) + ". The required sample size was not calculated."


def _classes(findings: Findings) -> str:
    counts = class_counts(findings)
    text = (f"{part}: " + ", ".join(f"{name} {count:,}" for name, count in one.items()) for part, one in counts.items())
    return "Cases by class, " + "; ".join(text)


def _prepared(findings: Findings) -> str | None:
    facts = findings.settings.facts
    sizes = ", ".join(f"{size} px" for size in findings.settings.digests)
    left = {name: count for name, count in (facts.get("left_out") or {}).items() if count}
    out = ", ".join(f"{name}: {count}" for name, count in left.items()) or "nothing"
    return f"Images resized to {sizes}; files left out: {out}."


def _read(findings: Findings) -> str:
    return ", ".join(findings.settings.facts.get("modalities") or ["images"])


def _missing(findings: Findings) -> str | None:
    modalities = findings.settings.facts.get("modalities")
    if not modalities:
        return None
    cases = findings.settings.facts.get("cases", "?")
    text = ", ".join(f"{name} {count}" for name, count in modalities.items())
    return f"Of {cases} cases, available: {text}. A case is used with the modalities that it has."


def _partition(findings: Findings) -> str:
    settings = findings.settings
    folds = f", {settings.folds} folds" if settings.folds else ""
    apart = "PATIENTS ARE IN SEVERAL PARTS" if settings.leaky else "no patient is in two parts"
    return f"Split {settings.protocol}{folds}, seed {settings.seed}; {apart}; labels of the test set sealed."


def _model(findings: Findings) -> str | None:
    if not findings.models:
        return None
    best = findings.models[0]
    config = best.record.known_config or {}
    loss = (config.get("loss") or {}).get("name")
    text = f"{best.title}, digest {best.record.digest}, {best.record.parameters:,} parameters"
    return f"{text}, loss {loss}; all parameters are in the leaderboard." if loss else f"{text}."


def _selection(findings: Findings) -> str | None:
    if not findings.trials:
        return None
    return (
        f"Best epoch of each training, and best of {counted(len(findings.trials), 'training')} by validation "
        f"{in_words(findings.settings.metric)}."
    )


def _imbalance(findings: Findings) -> str:
    settings = findings.settings
    thinned = f"Training set subsampled: {settings.training}. " if settings.training else ""
    losses = sorted({str((line.record.known_config or {}).get("loss", {}).get("name", "")) for line in findings.trials})
    return f"{thinned}Losses tried: {', '.join(filter(None, losses)) or 'none'}."


def _performance(findings: Findings) -> str | None:
    sealed = [one for one in findings.evaluations if one["part"] == SEALED]
    if not sealed:
        return None
    metric = sealed[0]["metric"]
    return f"{in_words(metric)} {interval(sealed[0]['metrics'].get(metric))} on the sealed test set."


def _external(findings: Findings) -> str | None:
    outside = [str(one["dataset"]) for one in findings.evaluations if one["part"] != SEALED]
    return f"On {', '.join(outside)}." if outside else None


def _uncertainty(findings: Findings) -> str:
    return "95 % confidence intervals by bootstrap over patients; differences are paired by patient."


def _software(findings: Findings) -> str | None:
    known = findings.environments[0] if findings.environments else {}
    if not known:
        return None
    commit = f", commit {known['git_commit']}" if known.get("git_commit") else ""
    return f"histotune {known.get('histotune')}{commit}, Python {known.get('python')}, PyTorch " + str(
        (known.get("packages") or {}).get("torch", "?")
    )


def _compute(findings: Findings) -> str | None:
    known = findings.environments[0] if findings.environments else {}
    if not known:
        return None
    seconds = sum(line.record.seconds for line in findings.trials)
    return f"{duration(seconds)} of training on {known.get('gpu') or known.get('processor', 'a CPU')}."


def _robustness(findings: Findings) -> str | None:
    result = findings.confirmed
    return f"Trained again with {result.get('seeds', 'several')} seeds; see Confirmation." if result else None


def _audited(findings: Findings) -> str | None:
    checks = findings.audit.get("checks")
    if not checks:
        return None
    leaks = sum(one.get("severity") == "leak" for one in checks)
    return f"{counted(len(checks), 'check')} for leaks and shortcuts: {counted(leaks, 'leak')}."


ITEMS = (
    ChecklistItem("The title names the kind of study, the population and the outcome", "1"),
    ChecklistItem("Clinical background, intended users and use", "3a, 3b"),
    ChecklistItem("Known inequalities between groups of patients", "3c"),
    ChecklistItem("Aim: development, evaluation or both", "4", lambda _: "Development; evaluation as stated below."),
    ChecklistItem("Source of the data and licence", "5a, 18e", _source),
    ChecklistItem("Dates in which cases were collected", "5b"),
    ChecklistItem("Setting, number and location of the centres", "6a"),
    ChecklistItem("Eligibility of patients", "6b"),
    ChecklistItem("Treatments that patients received", "6c"),
    ChecklistItem("How data were prepared and checked", "7", _prepared),
    ChecklistItem("Leaks between parts of the data", "7", _audited),
    ChecklistItem("The outcome: how and when the reference label was determined", "8a"),
    ChecklistItem("Who labelled, their qualifications, and their agreement", "8b"),
    ChecklistItem("Whether labelling was blind to the predictors", "8c"),
    ChecklistItem("Input of the model (predictors)", "9a", _read),
    ChecklistItem("Size of the sample and its justification", "10", _size),
    ChecklistItem("Missing data", "11", _missing),
    ChecklistItem("How cases were split for training and testing", "12a", _partition),
    ChecklistItem("Architecture, training and hyperparameters", "12c, 22", _model),
    ChecklistItem("How the final model was selected", "12c", _selection),
    ChecklistItem("Differences between centres or clusters", "12d"),
    ChecklistItem("Measures of performance and their uncertainty", "12e", _uncertainty),
    ChecklistItem("Class imbalance and how it was handled", "13", _imbalance),
    ChecklistItem("Fairness between groups of patients", "14, 23a"),
    ChecklistItem(
        "Output of the model and decision threshold",
        "15",
        lambda f: "Probabilities of " + ", ".join(f.settings.classes) + ".",
    ),
    ChecklistItem("Differences between development and evaluation data", "16, 20c"),
    ChecklistItem("Ethical approval and consent", "17"),
    ChecklistItem("Funding and interests", "18a, 18b"),
    ChecklistItem("Protocol and registration", "18c, 18d"),
    ChecklistItem("Code: version, dependencies, availability", "18f", _software),
    ChecklistItem("Computing: device and time", "12c", _compute),
    ChecklistItem("Involvement of patients and the public", "19"),
    ChecklistItem("Flow of participants and their characteristics", "20a, 20b"),
    ChecklistItem("Cases and events in each analysis", "21", _classes),
    ChecklistItem("Performance on data not used for selection, with intervals", "23a", _performance),
    ChecklistItem("Robustness to seeds and to other splits of the data", "23b", _robustness),
    ChecklistItem("Performance on external data", "16, 23a", _external),
    ChecklistItem(
        "Analysis of failures",
        "23b",
        lambda f: "See Errors by site and patient, and Confident errors." if f.models else None,
    ),
    ChecklistItem("Interpretation, limitations, generalisability", "25, 26"),
    ChecklistItem("Use in practice: poor input, required expertise, next steps", "27a, 27b, 27c"),
)
