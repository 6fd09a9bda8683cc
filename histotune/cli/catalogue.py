"""What can be named in a search space or on the command line."""

from __future__ import annotations

from typing import Any

from histotune.core.registry import Registry
from histotune.data.audits import AUDITS
from histotune.data.modalities import MODALITIES
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import ConfigError, suggest
from histotune.ingest.datasets import DATASETS, Info
from histotune.metrics.scores import METRICS
from histotune.models.backbones import BACKBONES
from histotune.models.fusions import FUSIONS
from histotune.models.losses import LOSSES
from histotune.models.redundancies import REDUNDANCIES
from histotune.reporting.figures import FIGURES
from histotune.reproductions.papers import REPRODUCTIONS
from histotune.space import load_space, space_names
from histotune.space.presets import load_preset, preset_names


def catalogue(kind: str) -> list[dict[str, object]]:
    """List what is registered under `kind`: name, summary, parameters with defaults and ranges, and source.

    A dataset also says how its files must lie, how large they are, under which licence, and how it is split.

    >>> [entry["name"] for entry in catalogue("ensembles")]
    ['average', 'greedy', 'max', 'stacking', 'vote', 'weighted', 'weighted_logits']

    Raises:
        ConfigError: there is no such kind.
    """
    registries: dict[str, Registry] = {
        "modalities": MODALITIES,
        "backbones": BACKBONES,
        "fusions": FUSIONS,
        "redundancies": REDUNDANCIES,
        "losses": LOSSES,
        "datasets": DATASETS,
        "ensembles": ENSEMBLES,
        "figures": FIGURES,
        "reproductions": REPRODUCTIONS,
        "audits": AUDITS,
    }
    if kind == "spaces":
        return [_plain(name, load_space(name).description) for name in space_names()]
    if kind == "presets":
        return [_preset(name) for name in preset_names()]
    if kind == "metrics":
        return [_plain(name, metric.description) for name, metric in METRICS.items()]
    if kind not in registries:
        known = [*registries, "metrics", "spaces", "presets"]
        raise ConfigError(f"there are no {kind!r} to list. {suggest(kind, known)}")
    entries = [registries[kind].entry(name) for name in registries[kind].names()]
    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            "parameters": {p.name: "required" if p.required else p.default for p in entry.parameters},
            "ranges": {p.name: str(p.range) for p in entry.parameters if p.range},
            "source": entry.source,
            **(_dataset(entry.build) if kind == "datasets" else {}),
        }
        for entry in entries
    ]


def _dataset(build: Any) -> dict[str, object]:
    """Return what a person should know of a dataset before having it."""
    info: Info = build.info
    return {
        "source": info.source,
        "layout": info.layout,
        "size": info.size,
        "licence": info.licence,
        "split": info.protocol,
    }


def _plain(name: str, summary: str) -> dict[str, object]:
    return {"name": name, "summary": summary, "parameters": {}, "ranges": {}, "source": ""}


def _preset(name: str) -> dict[str, object]:
    preset = load_preset(name)
    loss = preset.config["loss"]
    parameters = {"space": preset.space.stem, "loss": loss["name"], **{k: v for k, v in loss.items() if k != "name"}}
    return _plain(name, preset.description) | {"parameters": parameters}
