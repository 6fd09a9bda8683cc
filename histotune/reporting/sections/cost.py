"""What the search took: time, an estimate of energy, memory; and what its models take in use."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from histotune.core.format import counted, duration
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings
from histotune.studies.leaderboard import LeaderboardLine, shown_kind

PER_THREAD, PER_GPU = 15.0, 300.0  # watts that are assumed: of a busy CPU core with its memory; of a data-centre GPU
HOUR = 3600.0


@SECTIONS.register("cost")
class CostSection(Section):
    """Time, energy, memory, parameters and latency."""

    title = "Cost"
    order = 120
    figures: ClassVar = (SectionRequest("cost"),)

    def build(self, findings: Findings) -> Content:
        """Sum up time, energy and memory."""
        lines = [line for line in findings.source.entries if line.kind != "ensemble"]
        seconds = sum(line.record.seconds for line in lines)
        if not lines:
            return Content(html.paragraph("No training has ended yet."))
        began = [line.record.started for line in lines if line.record.started]
        ended = [line.record.started + line.record.seconds for line in lines if line.record.started]
        text: dict[str, Any] = {
            "training time": f"{duration(seconds)}, sum over {counted(len(lines), 'training')}",
            "from the first start to the last end": duration(max(ended) - min(began)) if began else None,
            "epochs": sum(line.record.epochs for line in lines),
            "estimated energy": f"{kwh(findings, seconds):.3g} kWh",
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
    """Explain how the energy of trainings is estimated."""
    watts, why = assumed(findings)
    return (
        f"The energy is an estimate, not a measurement: {watts:g} W x {duration(seconds)} = "
        f"{kwh(findings, seconds):.3g} kWh. {why}. Idle power, cooling and data preparation are not included; where "
        "trainings shared a device, the estimate is too high."
    )


def kwh(findings: Findings, seconds: float) -> float:
    """Return the estimated energy of trainings, kWh."""
    return assumed(findings)[0] * seconds / HOUR / 1000


def assumed(findings: Findings) -> tuple[float, str]:
    """Return the power that a training is assumed to draw, watts, and the source of the number."""
    if findings.watts is not None:
        return findings.watts, "The power was given with `--watts`"
    known = findings.environments
    gpus = [str(one["gpu"]) for one in known if one.get("device", "cpu") != "cpu" and one.get("gpu")]
    if gpus:
        return PER_GPU, f"{PER_GPU:g} W are assumed for a GPU ({gpus[0]}); give the real value with `--watts`"
    threads = max([int(one.get("threads") or 1) for one in known], default=1)
    machine = known[0].get("processor", "CPU") if known else "CPU"
    return PER_THREAD * threads, (
        f"{PER_THREAD:g} W per thread are assumed, for {counted(threads, 'thread')} of the CPU ({machine}); give the "
        "real value with `--watts`"
    )


def _memory(findings: Findings) -> str | None:
    """Return the largest memory of a training process, in words."""
    peaks = [one["peak_memory_mb"] for one in findings.environments if one.get("peak_memory_mb")]
    if not peaks:
        return None
    where = "on the GPU" if findings.environments[0].get("device", "cpu") != "cpu" else "for a whole training process"
    return f"{max(peaks):,.0f} MiB {where}"


def _in_use(models: list[LeaderboardLine]) -> str:
    """Show the size and latency of the best models."""
    rows = [
        [line.title, line.record.parameters, line.record.metrics.get("latency_ms"), line.record.seconds]
        for line in models
    ]
    caption = "Cost of the best models. Latency: milliseconds for one case on the training device."
    return html.table(caption, ["model", "parameters", "latency, ms", "training, s"], rows)


def _spent(lines: list[LeaderboardLine]) -> str:
    """Show how the training time is divided."""
    times: dict[tuple[str, str], float] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for line in lines:
        key = (line.kind, line.record.state)
        counts[key] += 1
        times[key] = times.get(key, 0.0) + line.record.seconds
    rows = [
        [f"{shown_kind(kind)}, {state}", counts[kind, state], duration(times[kind, state])]
        for kind, state in sorted(counts)
    ]
    return html.table("Training time by kind and outcome.", ["kind", "count", "time"], rows)
