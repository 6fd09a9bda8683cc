"""What the search took: time, an estimate of energy, memory; and what its models take in use."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings
from histotune.studies.leaderboard import LeaderboardLine

PER_THREAD, PER_GPU = 15.0, 300.0  # watts that are assumed: of a busy CPU core with its memory; of a data-centre GPU
HOUR = 3600.0


@SECTIONS.register("cost")
class CostSection(Section):
    """Time, energy, memory, parameters and latency."""

    title = "Cost"
    order = 120
    figures: ClassVar = (SectionRequest("cost"),)

    def build(self, findings: Findings) -> Content:
        """Add up what was spent."""
        lines = [line for line in findings.source.entries if line.kind != "ensemble"]
        seconds = sum(line.record.seconds for line in lines)
        if not lines:
            return Content(html.paragraph("Nothing has ended yet, so nothing was spent."))
        began = [line.record.started for line in lines if line.record.started]
        ended = [line.record.started + line.record.seconds for line in lines if line.record.started]
        text: dict[str, Any] = {
            "training time": f"{duration(seconds)} of {html.counted(len(lines), 'training')}, all added up",
            "from first to last": duration(max(ended) - min(began)) if began else None,
            "epochs": sum(line.record.epochs for line in lines),
            "energy, estimated": f"{kwh(findings, seconds):.3g} kWh",
            "peak memory": _memory(findings),
        }
        return Content(
            html.joined(
                [
                    html.facts(text),
                    html.paragraph(energy(findings, seconds)),
                    _in_use(findings.models[:5]),
                    _spent(lines),
                ]
            )
        )


def energy(findings: Findings, seconds: float) -> str:
    """Say how the energy of trainings is estimated."""
    watts, why = assumed(findings)
    return (
        f"The energy is no measurement: {watts:g} W x {duration(seconds)} = {kwh(findings, seconds):.3g} kWh. {why}. "
        "Idle power, cooling and preparation of the data are left out; where trainings shared a device, it is too much."
    )


def kwh(findings: Findings, seconds: float) -> float:
    """Return the estimated energy of trainings, kWh."""
    return assumed(findings)[0] * seconds / HOUR / 1000


def assumed(findings: Findings) -> tuple[float, str]:
    """Return the power that a training is assumed to draw, watts, and where the number is from."""
    if findings.watts is not None:
        return findings.watts, "The power is as given by `--watts`"
    known = findings.environments
    gpus = [str(one["gpu"]) for one in known if one.get("device", "cpu") != "cpu" and one.get("gpu")]
    if gpus:
        return PER_GPU, f"{PER_GPU:g} W are assumed for a GPU ({gpus[0]}); `--watts` says better"
    threads = max([int(one.get("threads") or 1) for one in known], default=1)
    machine = known[0].get("processor", "CPU") if known else "CPU"
    return PER_THREAD * threads, (
        f"{PER_THREAD:g} W are assumed for each of {html.counted(threads, 'thread')} of a {machine} CPU; `--watts` "
        "says better"
    )


def duration(seconds: float) -> str:
    """Write a time in the unit that fits.

    >>> duration(42.1), duration(600), duration(9000)
    ('42 s', '10.0 min', '2.50 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.2f} h"


def _memory(findings: Findings) -> str | None:
    """Return the most that a process took that trained."""
    peaks = [one["peak_memory_mb"] for one in findings.environments if one.get("peak_memory_mb")]
    if not peaks:
        return None
    where = "of the GPU" if findings.environments[0].get("device", "cpu") != "cpu" else "of a training process, whole"
    return f"{max(peaks):,.0f} MiB {where}"


def _in_use(models: list[LeaderboardLine]) -> str:
    """Show what the best models cost to use."""
    rows = [
        [f"{line.kind} {line.name}", line.record.parameters, line.record.metrics.get("latency_ms"), line.record.seconds]
        for line in models
    ]
    caption = "The best models: weights, milliseconds for one case on the training device, seconds of training."
    return html.table(caption, ["model", "parameters", "latency, ms", "training, s"], rows)


def _spent(lines: list[LeaderboardLine]) -> str:
    """Show where the time went: what was stopped early was not wasted, but learned from."""
    times: dict[tuple[str, str], float] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for line in lines:
        key = (line.kind, line.record.state)
        counts[key] += 1
        times[key] = times.get(key, 0.0) + line.record.seconds
    rows = [[f"{kind}, {state}", counts[kind, state], duration(times[kind, state])] for kind, state in sorted(counts)]
    return html.table("Where the time went.", ["what", "how many", "time"], rows)
