"""The README of an export, a model card after Mitchell et al. (arXiv 1810.03993), from `templates/card.md.j2`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from histotune.core import files
from histotune.core.format import bracketed, listed
from histotune.ingest.new_cases import what_is_read
from histotune.models.predictor import load_model
from histotune.storage import layout
from histotune.storage.seal import EXTERNAL, SEALED

FEW = 12  # columns that are named
SHOWN = (
    *("balanced_accuracy", "auroc", "accuracy", "sensitivity", "specificity", "macro_f1", "mcc"),
    *("ece", "brier", "nll"),
)
CALLED = ("sensitivity", "specificity")
FORMS = {"table": "{0}.csv (.csv.gz, .parquet; its first column, or case_id, is the case)", "image": "{0}/ID.png"}

_MARKDOWN = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=False,  # Markdown, not HTML
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_MARKDOWN.filters |= {"number": partial(bracketed, digits=4), "listed": listed}


def card(info: Mapping[str, Any]) -> str:
    """Return the Markdown of what `export.json` holds."""
    optional = ("versions", "seal", "operating_point", "parts", "onnx", "torch_export")  # earlier versions have fewer
    sealed, external = ([one for one in info.get("evaluations", []) if one["part"] == p] for p in (SEALED, EXTERNAL))
    return _MARKDOWN.get_template("card.md.j2").render(
        info=dict.fromkeys(optional) | dict(info),
        kinds=sorted({one["kind"] for one in info["reads"].values()}),
        sealed=[_evaluation(one) for one in sealed],
        sealed_headers=[f"evaluation {one['openings_before'] + 1}, {one['time'][:10]}" for one in sealed],
        external=[_evaluation(one) for one in external],
        external_headers=[f"{one['dataset']}, {one['time'][:10]}" for one in external],
        shown=SHOWN,
        called=CALLED,
        few=FEW,
        forms=FORMS,
    )


def _evaluation(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"at_threshold": None, "shift": None, "note": ""} | dict(one)


def add_evaluation(folder: Path, evaluation: Mapping[str, Any], seal: str) -> None:
    """Write into an export what an evaluation of it found, and its card anew; the digest stays that of the model.

    Args:
        evaluation: as in the study's `evaluation.json`.
        seal: how often the study's test set was evaluated by now, in words; "" where that is not known.

    Raises:
        HistotuneError: the folder cannot be written to.
    """
    info = files.read_json(folder / layout.EXPORT)
    info["evaluations"] = [*info.get("evaluations", []), files.without_nan(evaluation)]
    info["seal"] = seal or info.get("seal", "")
    files.write_json(folder / layout.EXPORT, info)
    files.write_text(folder / layout.CARD, card(info))


def what_it_reads(folders: Iterable[Path]) -> dict[str, Any]:
    """Return what the models in these folders read, by modality: kind, shape of a case, columns of a table."""
    models = [load_model(folder, torch.device("cpu")) for folder in folders]
    result = what_is_read((name, model.preparations[name]) for model in models for name in model.modalities)
    return {
        name: {"kind": one.kind, "shape": list(one.shape), "columns": list(one.needed)} for name, one in result.items()
    }
