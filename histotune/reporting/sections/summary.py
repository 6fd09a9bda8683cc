"""The study in words, the honest number first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from histotune.metrics import scores as metrics
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings
from histotune.storage.seal import SEALED, seal_sentence
from histotune.storage.study_folder import COMPLETE
from histotune.studies.leaderboard import LEAKY, SINGLE, TRIAL, Verdict


@SECTIONS.register("summary")
class SummarySection(Section):
    """What can be trusted, in words, the honest number first."""

    title = "Summary"
    order = 10

    def build(self, findings: Findings) -> Content:
        """Say what was reached, how honest the number is, and what is still to be done."""
        first, *rest = [*_honest(findings), *_promised(findings)]
        pieces = [_tiles(findings), *_warnings(findings), html.paragraph(first, kind="lead")]
        pieces += [html.paragraph(text) for text in rest]
        pieces += [html.paragraph(text) for text in (_audit(findings), _seal(findings))]
        return Content(html.joined(pieces))


def lead(findings: Findings) -> str:
    """Return the first sentences of the summary, which the command line prints."""
    return [*_honest(findings), *_promised(findings)][0]


def _honest(findings: Findings) -> list[str]:
    """Say what was measured where nothing was chosen: confirmation, then the sealed part."""
    return [*_confirmed(findings), *_evaluated(findings)]


def _confirmed(findings: Findings) -> list[str]:
    """Say what the search's winner reaches when it is trained again, and whether that is better than chance."""
    result = findings.confirmed
    if not result:
        return _nested(findings)
    return [str(result["sentence"]), *_nested(findings)]


def searched_best(confirmed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contender that the search put first, which is the one whose number was too good."""
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
        f"On the sealed test part ({html.counted(first['cases'], 'case')} of "
        f"{html.counted(first['patients'], 'patient')}), opened {_times(len(findings.openings))}, {first['export']} "
        f"reaches {html.interval(first['metrics'].get(metric))} {metrics.in_words(metric)} (95 % interval by patient)."
    )
    text += _against(first.get("gains", {}), metric)
    if last is not first:
        text += (
            f" It was opened again since; the latest, {last['export']}, reaches "
            f"{html.interval(last['metrics'].get(metric))}, which is optimistic as far as it was chosen by an earlier "
            "opening."
        )
    return [text]


def _against(gains: Mapping[str, Any], metric: str) -> str:
    """Say whether an evaluation beats every control, or is worse than one."""
    controls = {name: gain for name, gain in gains.items() if name.startswith("control ")}
    if not controls:
        return ""
    sign = metrics.direction(metric)
    edges = {name: gain["low" if sign > 0 else "high"] for name, gain in controls.items()}
    closest = min(controls, key=lambda name: float("-inf") if edges[name] is None else sign * edges[name])
    beats = edges[closest] is not None and sign * edges[closest] > 0
    best_case = controls[closest]["high" if sign > 0 else "low"]
    worse = best_case is not None and sign * best_case < 0
    words = (
        "It beats every control"
        if beats
        else f"It is worse than the {closest}, beyond noise"
        if worse
        else f"It is no better than the {closest}, beyond noise"
    )
    return f" {words} (difference from the {closest}: {html.interval(controls[closest], signed=True)})."


def _promised(findings: Findings) -> list[str]:
    """Say what the search showed, and that it was chosen for it."""
    models, metric = findings.models, findings.settings.metric
    if not models:
        failed = Counter(line.record.kind or line.record.state for line in findings.trials)
        why = "; ".join(f"{kind}: {count}" for kind, count in failed.most_common()) or "none has ended"
        return [f"No trial of this study is complete ({why}), so there is no result: `histotune search` goes on."]
    best, count = models[0], sum(line.kind in (TRIAL, SINGLE) for line in models)
    together = "" if best.kind in (TRIAL, SINGLE) else " and what was made of them"
    text = (
        f"The search's best validation score, {html.number(best.record.metrics.get(metric))} "
        f"{metrics.in_words(metric)} ({best.kind} {best.name}), is optimistic: it is the best of "
        f"{html.counted(count, 'complete trial')}{together}, chosen on the very cases it is measured on."
    )
    text += _against_controls(findings)
    if not findings.confirmed:
        text += _against_default(findings)
        text += f" Run `histotune confirm {findings.settings.name}` for a number that holds."
    return [text]


def _against_controls(findings: Findings) -> str:
    """Say what the validation part says of winner and controls; nothing where it cannot be compared."""
    verdict = findings.verdict
    if verdict.difference is None:
        return f" {verdict}" if findings.models else ""
    return _no_better(verdict, "the best control") if not verdict.beats else f" {verdict}"


def _against_default(findings: Findings) -> str:
    gain = findings.gain
    if gain.difference is None or gain.beats:
        return f" {gain}"
    return _no_better(gain, "the space's default")


def _no_better(verdict: Verdict, rival: str) -> str:
    return f" On the validation part the winner is no better than {rival}: {verdict}"


def _warnings(findings: Findings) -> list[Markup]:
    """Say what makes every number of the study doubtful."""
    settings, result = findings.settings, []
    if settings.leaky:
        result.append(
            f"This is a {LEAKY} (split {settings.protocol}): patients stand on both sides, so no number here is honest."
        )
    if settings.facts.get("synthetic"):
        result.append("The data are synthetic: nothing here says anything about tissue.")
    if not settings.facts.get("patients_known", True):
        result.append(
            "Patients are unknown and every image counts as one: the intervals are narrower than they should."
        )
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
        text = f"{html.counted(made, 'check')}{skipped}, {html.counted(warnings, 'warning')}"
        return f"The audit found no leak in {text}."
    return "The audit found leaks: " + " ".join(str(one.get("sentence", one.get("name"))) for one in leaks)


def _seal(findings: Findings) -> str:
    if not findings.source.part("test")[0]:
        return "This study has no sealed test part."
    return seal_sentence(findings.store) or (
        "The sealed test part was never opened: `histotune evaluate EXPORT` does it, once, on the record."
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _tiles(findings: Findings) -> Markup:
    """Set the numbers that a reader looks for first."""
    states = Counter(line.record.state for line in findings.trials)
    cases, patients = findings.source.part("val")
    tiles = {
        "complete trials": f"{states[COMPLETE]:,}",
        "stopped early or failed": f"{sum(states.values()) - states[COMPLETE]:,}",
        "validation cases": f"{cases:,}",
        "validation patients": f"{patients:,}",
    }
    pieces = [
        Markup('<div class="tile {}"><div class="value">{}</div><div class="name">{}</div></div>').format(*tile)
        for tile in [*_scores(findings), *(("", value, name) for name, value in tiles.items())]
    ]
    return Markup('<div class="tiles">{}</div>').format(html.joined(pieces))


def _scores(findings: Findings) -> list[tuple[str, str, str]]:
    metric, result = findings.settings.metric, []
    if findings.confirmed:
        value = (searched_best(findings.confirmed).get("confirmed") or {}).get("value")
        result.append(("good", html.number(value), f"confirmed {metrics.in_words(metric)}"))
    sealed = [one for one in findings.evaluations if one["part"] == SEALED]
    if sealed:
        value = sealed[0]["metrics"].get(metric, {}).get("value")
        result.append(("good", html.number(value), f"{metrics.in_words(metric)}, sealed test part"))
    if findings.models:
        value = findings.models[0].record.metrics.get(metric)
        result.append(("faint", html.number(value), f"search's best {metrics.in_words(metric)}, optimistic"))
    return result
