"""The study in words, the most reliable number first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from histotune.core.format import counted, interval, number, times
from histotune.evaluation.next_steps import confirming
from histotune.metrics import scores as metrics
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings
from histotune.storage.seal import SEALED, seal_sentence
from histotune.storage.study_folder import COMPLETE
from histotune.studies.leaderboard import LEAKY, SINGLE, TRIAL


@SECTIONS.register("summary")
class SummarySection(Section):
    """The results in words, the most reliable number first."""

    title = "Summary"
    order = 10

    def build(self, findings: Findings) -> Content:
        """Return what was reached, how reliable the number is, and what is still to be done."""
        first, *rest = [*_reliable(findings), *_promised(findings)]
        pieces = [_tiles(findings), *_warnings(findings), html.paragraph(first, kind="lead")]
        pieces += [html.paragraph(text) for text in rest]
        pieces += [html.paragraph(text) for text in (_audit(findings), _seal(findings))]
        return Content(html.joined(pieces))


def lead(findings: Findings) -> str:
    """Return the first sentences of the summary, which the command line prints."""
    return [*_reliable(findings), *_promised(findings)][0]


def _reliable(findings: Findings) -> list[str]:
    """Return what was measured on cases that nothing was selected on: confirmation, then the sealed test set."""
    return [*_confirmed(findings), *_evaluated(findings)]


def _confirmed(findings: Findings) -> list[str]:
    """Return what the best trial reaches when it is trained again, and whether that is better than chance."""
    result = findings.confirmed
    if not result:
        return _nested(findings)
    return [str(result["sentence"]), *_nested(findings)]


def searched_best(confirmed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contender that the search ranked first, whose score is the optimistic one."""
    return next((one for one in confirmed.get("contenders", []) if not one.get("failed")), {})


def _nested(findings: Findings) -> list[str]:
    return [str(findings.nested["sentence"])] if findings.nested.get("sentence") else []


def _evaluated(findings: Findings) -> list[str]:
    sealed = [one for one in findings.evaluations if one["part"] == SEALED]
    if not sealed:
        return []
    first, last = sealed[0], sealed[-1]
    metric = first["metric"]
    text = (
        f"On the sealed test set ({counted(first['cases'], 'case')} of {counted(first['patients'], 'patient')}), "
        f"evaluated {times(len(findings.openings))}, export {first['export']} reaches "
        f"{interval(first['metrics'].get(metric))} {metrics.in_words(metric)} (95 % interval over patients)."
    )
    text += _against(first.get("gains", {}), metric)
    if last is not first:
        text += (
            f" It was evaluated again later; the latest export, {last['export']}, reaches "
            f"{interval(last['metrics'].get(metric))}, which is optimistic if an earlier evaluation helped select it."
        )
    return [text]


def _against(gains: Mapping[str, Any], metric: str) -> str:
    """Return whether an export is significantly better than every baseline, or worse than one."""
    baselines = {name: gain for name, gain in gains.items() if name.startswith("control ")}
    if not baselines:
        return ""
    sign = metrics.direction(metric)
    edges = {name: gain["low" if sign > 0 else "high"] for name, gain in baselines.items()}
    closest = min(baselines, key=lambda name: float("-inf") if edges[name] is None else sign * edges[name])
    beats = edges[closest] is not None and sign * edges[closest] > 0
    best_case = baselines[closest]["high" if sign > 0 else "low"]
    worse = best_case is not None and sign * best_case < 0
    name = closest.removeprefix("control ")
    how = "significantly worse" if worse else "not significantly better"
    words = "significantly better than every baseline" if beats else f"{how} than the baseline {name}"
    return f" It is {words} (difference from {name}: {interval(baselines[closest], signed=True)})."


def _promised(findings: Findings) -> list[str]:
    """Return what the search reached, and that this number is optimistic."""
    models, metric = findings.models, findings.settings.metric
    if not models:
        failed = Counter(line.record.kind or line.record.state for line in findings.trials)
        why = "; ".join(f"{kind}: {count}" for kind, count in failed.most_common()) or "none has ended"
        return [f"No trial of this study is complete ({why}), so there is no result yet: continue `histotune search`."]
    best, count = models[0], sum(line.kind in (TRIAL, SINGLE) for line in models)
    together = "" if best.kind in (TRIAL, SINGLE) else " and their ensembles"
    text = (
        f"The best validation score of the search, {number(best.record.metrics.get(metric))} "
        f"{metrics.in_words(metric)} ({best.title}), is optimistic: it is the best of "
        f"{counted(count, 'complete trial')}{together}, selected on the same cases that it is measured on."
    )
    text += f" {findings.verdict}"
    if not findings.confirmed:
        text += f" {findings.gain}"
        for command in confirming(findings.store):
            text += f" Run `{command}` for a reliable number."
    return [text]


def _warnings(findings: Findings) -> list[Markup]:
    """Return what makes every number of the study doubtful."""
    settings, result = findings.settings, []
    if settings.leaky:
        result.append(
            f"This is a {LEAKY} (split {settings.protocol}): patients are on both sides of the split, so every number "
            "on this page is too optimistic."
        )
    if settings.facts.get("synthetic"):
        result.append("The data are synthetic: no result on this page applies to real tissue.")
    if not settings.facts.get("patients_known", True):
        result.append("Patients are unknown, so every image counts as its own patient: the intervals are too narrow.")
    return [html.paragraph(text, kind="warning") for text in result]


def _audit(findings: Findings) -> str:
    if not findings.audit:
        return f"The data were not audited for leaks: run `histotune audit {findings.settings.name}`."
    checks = findings.audit.get("checks", [])
    leaks = [one for one in checks if one.get("severity") == "leak"]
    warnings = sum(one.get("severity") == "warning" for one in checks)
    if not leaks:
        made = sum(bool(one.get("of")) for one in checks)
        skipped = f" ({len(checks) - made} more could not be made)" if made < len(checks) else ""
        text = f"{counted(made, 'check')}{skipped}, {counted(warnings, 'warning')}"
        return f"The audit found no leak in {text}."
    return "The audit found leaks: " + " ".join(str(one.get("sentence", one.get("name"))) for one in leaks)


def _seal(findings: Findings) -> str:
    if not findings.source.part("test")[0]:
        return "This study has no sealed test set."
    return seal_sentence(findings.store) or (
        "The sealed test set has not been evaluated: `histotune evaluate EXPORT` does this, and records it."
    )


def _tiles(findings: Findings) -> Markup:
    """Return the tiles with the numbers that a reader looks for first."""
    states = Counter(line.record.state for line in findings.trials)
    cases, patients = findings.source.part("val")
    tiles = {
        "complete trials": f"{states[COMPLETE]:,}",
        "stopped early or failed": f"{sum(states.values()) - states[COMPLETE]:,}",
        "validation cases": f"{cases:,}",
        "validation patients": f"{patients:,}",
    }
    return html.piece("tiles", [*_scores(findings), *(("", value, name) for name, value in tiles.items())])


def _scores(findings: Findings) -> list[tuple[str, str, str]]:
    metric, result = findings.settings.metric, []
    if findings.confirmed:
        value = (searched_best(findings.confirmed).get("confirmed") or {}).get("value")
        result.append(("good", number(value), f"confirmed {metrics.in_words(metric)}"))
    sealed = [one for one in findings.evaluations if one["part"] == SEALED]
    if sealed:
        value = sealed[0]["metrics"].get(metric, {}).get("value")
        result.append(("good", number(value), f"{metrics.in_words(metric)}, sealed test set"))
    if findings.models:
        value = findings.models[0].record.metrics.get(metric)
        result.append(("faint", number(value), f"best {metrics.in_words(metric)} of the search, optimistic"))
    return result
