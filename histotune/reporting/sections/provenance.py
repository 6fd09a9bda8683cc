"""Where the results come from: data, split, versions, seeds, digests, commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from histotune._version import __version__
from histotune.core.format import counted, minute
from histotune.core.provenance import utc_time
from histotune.metrics.scores import in_words
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings

_PARTS = {"train": "training", "val": "validation", "test": "sealed test", "": "left out"}


@SECTIONS.register("provenance")
class Provenance(Section):
    """Data, split, versions, seeds, digests and commands."""

    title = "Provenance"
    order = 130

    def build(self, findings: Findings) -> Content:
        """List what is needed to repeat the study."""
        return Content(
            html.joined(
                [
                    html.heading("Data"),
                    html.facts(_data(findings)),
                    parts(findings),
                    html.heading("Study"),
                    html.facts(_study(findings)),
                    html.heading("Software and machine"),
                    html.facts(_machine(findings)),
                    *_commands(findings),
                ]
            )
        )


def class_counts(findings: Findings) -> dict[str, dict[str, int]]:
    """Return {part: {class: cases}} of the parts that are not sealed."""
    table = findings.store.split.merge(findings.store.known_labels(), on="id")
    classes = findings.settings.classes
    counts = table.groupby(["part", "label"]).size()
    return {
        part: {name: int(counts.get((part, label), 0)) for label, name in enumerate(classes)}
        for part in ("train", "val")
    }


def parts(findings: Findings) -> Markup:
    """Show cases, patients and classes of every part of the split; the labels of the test set stay sealed."""
    table, counts = findings.store.split, class_counts(findings)
    rows: list[list[Any]] = []
    for part, rows_of in table.groupby("part", sort=False):
        known = counts.get(str(part))
        unknown = "sealed" if part == "test" else "unused"
        cells = [known[name] if known else unknown for name in findings.settings.classes]
        rows.append([_PARTS.get(str(part), str(part)), len(rows_of), rows_of["patient"].nunique(), *cells])
    rows.sort(key=lambda row: list(_PARTS.values()).index(row[0]))
    return html.table("The split.", ["set", "cases", "patients", *findings.settings.classes], rows)


def _data(findings: Findings) -> dict[str, Any]:
    settings = findings.settings
    facts = settings.facts
    text = {
        "dataset": f"{settings.dataset}: {facts['title']}" if facts.get("title") else settings.dataset,
        "source": facts.get("source"),
        "licence": facts.get("licence"),
        "synthetic": bool(facts.get("synthetic", False)),
        "cases": facts.get("cases"),
        "patients": facts.get("patients") if facts.get("patients_known", True) else None,
        "sites": facts.get("sites") or None,
        "classes": ", ".join(settings.classes) + f" (positive: {settings.classes[settings.positive]})",
        "digest": html.joined(html.code(f"{digest} at {size} px") for size, digest in settings.digests.items()),
        "files left out": _counts(facts.get("left_out")),
        "irregular files": _counts(facts.get("odd")),
    }
    notes = facts.get("report") or []
    return text | ({"notes": html.bullets(map(str, notes))} if notes else {})


def _counts(result: Any) -> str | None:
    if not isinstance(result, Mapping):
        return None
    return ", ".join(f"{name}: {count}" for name, count in result.items()) or "none"


def _study(findings: Findings) -> dict[str, Any]:
    settings = findings.settings
    folds = (
        f"{settings.folds}, {counted(settings.repeats, 'random split')} of the patients" if settings.folds else "none"
    )
    return {
        "started, UTC": minute(settings.created),
        "split": settings.protocol + (" (leaky)" if settings.leaky else ", no patient in two parts"),
        "folds": folds,
        "training set": settings.training or "all cases",
        "seed": settings.seed,
        "metrics": ", ".join(map(in_words, settings.metrics)),
        "search space": (settings.space or {}).get("description"),
        "digest of the best model": html.code(findings.models[0].record.digest) if findings.models else None,
    }


def _machine(findings: Findings) -> dict[str, Any]:
    known = findings.environments[0] if findings.environments else {}
    packages = known.get("packages") or {}
    return {
        "histotune": known.get("histotune") or findings.settings.version or __version__,
        "git commit": html.code(known["git_commit"]) if known.get("git_commit") else None,
        "Python": known.get("python"),
        "platform": known.get("platform"),
        "processor": known.get("processor"),
        "CPUs": known.get("cpus"),
        "GPU": known.get("gpu") or ("none" if known else None),
        "threads per trial": known.get("threads"),
        "precision": known.get("precision"),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
    }


def _commands(findings: Findings) -> list[Markup]:
    """List the commands on record."""
    rows = [
        ["search or training", minute(one.get("time")), html.code(one.get("command", ""))] for one in findings.commands
    ]
    result = findings.confirmed
    if result.get("command"):
        rows.append(["confirmation", minute(result.get("time")), html.code(result["command"])])
    rows += [["evaluation", minute(one.get("time")), html.code(one.get("command", ""))] for one in findings.openings]
    if findings.command:
        rows.append(["this report", minute(utc_time()), html.code(findings.command)])
    if not rows:
        return [html.paragraph("No command is on record: the study was run from Python.")]
    return [html.table("Commands on record.", ["step", "time, UTC", "command"], rows)]
