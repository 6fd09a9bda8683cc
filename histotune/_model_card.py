"""The README of an export: what the model is, how it was made, what its numbers mean and what they do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from histotune.case_files import what_is_read
from histotune.predictor import CONFIG, load_model

SHOWN = ("balanced_accuracy", "auroc", "accuracy", "sensitivity", "specificity", "macro_f1", "mcc", "ece")
_CALLED = ("sensitivity", "specificity")
FEW = 12  # columns that are named


def card(info: Mapping[str, Any]) -> str:
    """Write Markdown from what `export.json` holds."""
    return "\n".join([*_head(info), *_read(info), *_made(info), *_measured(info), *_use(info)]) + "\n"


def what_it_reads(folder: Path) -> dict[str, Any]:
    """Return what the models in an export folder read, by modality: kind, shape of a case, columns of a table."""
    models = [load_model(path.parent, torch.device("cpu")) for path in sorted(folder.rglob(CONFIG))]
    found = what_is_read((name, model.preparations[name]) for model in models for name in model.modalities)
    return {
        name: {"kind": one.kind, "shape": list(one.shape), "columns": list(one.needed)} for name, one in found.items()
    }


def _head(info: Mapping[str, Any]) -> list[str]:
    data, split = info["dataset"], info["split"]
    lines = [f"# {info['name']}", ""]
    if data["synthetic"]:
        lines += ["> **Synthetic images.** It was trained on made-up pictures and says nothing about tissue.", ""]
    if split["leaky"]:
        lines += [
            f"> **Leaky split ({split['protocol']}).** Patients may stand on both sides, so every number below is too "
            "good; it serves to reproduce published work only.",
            "",
        ]
    what = "An ensemble" if info["kind"] == "ensemble" else "A single model"
    lines += [f"{what} that tells {_and(info['classes'])} apart. For research; it is no medical device.", ""]
    return lines


def _read(info: Mapping[str, Any]) -> list[str]:
    lines = ["## What it reads", ""]
    for name, one in info["reads"].items():
        columns, shape = one["columns"], one["shape"]
        if one["kind"] == "table":
            few = ", ".join(columns[:FEW]) + (", ... (all of them in export.json)" if len(columns) > FEW else "")
            lines.append(f"- `{name}`: a table, of which {len(columns)} columns are needed: {few}")
        elif one["kind"] == "image":
            lines.append(f"- `{name}`: an RGB image")
        else:
            lines.append(f"- `{name}`: a {one['kind']} of patches, {shape[0]} features each")
    if len(info["reads"]) > 1:
        lines.append("")
        lines.append("A case may lack some of them; one that lacks all has no prediction.")
    return [*lines, ""]


def _made(info: Mapping[str, Any]) -> list[str]:
    data, split, study = info["dataset"], info["split"], info["study"]
    digests = ", ".join(f"{digest} at {size} px" for size, digest in data["digests"].items())
    lines = [
        "## How it was made",
        "",
        f"- by histotune {info['version']} on {info['created']}, from study `{study['name']}` begun {study['created']}",
        f"- data: `{data['name']}`, digest {digests}" + (f"; {data['source']}" if data["source"] else ""),
        f"- licence of the data: {data['licence'] or 'not stated'}",
        f"- split: `{split['protocol']}`, seed {split['seed']}, "
        + ("**leaky**" if split["leaky"] else "no patient on two sides"),
        f"- digest of this model: `{info['digest']}`",
    ]
    if split.get("folds"):
        often = f", dealt {split['repeats']} times" if split["repeats"] > 1 else ""
        lines.append(
            f"- cross-validated: {split['folds']} folds of the development part{often}; a member is the mean logit of "
            "a network per fold, and what is said of validation is said of out-of-fold predictions"
        )
    if split["training"]:
        lines.append(f"- training part: {split['training']}; validation and test parts are natural")
    if info["kind"] == "ensemble":
        lines.append(f"- members joined by `{info['strategy']}` {info['params'] or ''}".rstrip())
    lines += ["", "| member | trial | configuration | temperature | validation " + info["metric"] + " |"]
    lines.append("|---|---|---|---|---|")
    for k, member in enumerate(info["members"]):
        value = _number(member["validation"].get(info["metric"]))
        lines.append(f"| {k} | {member['trial']} | `{member['digest']}` | {member['temperature']:.3g} | {value} |")
    return [*lines, ""]


def _measured(info: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Validation metrics",
        "",
        "Members and their temperatures were chosen on these very cases, so these numbers are optimistic; "
        "`histotune evaluate` measures on the study's sealed test part.",
        "",
        "| metric | validation |",
        "|---|---|",
    ]
    found = info["validation"]
    lines += [f"| {name} | {_number(found[name])} |" for name in SHOWN if name in found]
    if info["threshold"] is not None:
        positive = info["classes"][info["positive"]]
        lines += ["", f"`label_at_threshold` is `{positive}` from a probability of {info['threshold']:.4f} on."]
    if point := info.get("operating_point"):
        asked = "" if point["asked"] is None else f" {point['asked']:g}"
        found = {name: [_number(point[name][end]) for end in ("value", "low", "high")] for name in _CALLED}
        reached = ", ".join(f"{name} {value} [{low}, {high}]" for name, (value, low, high) in found.items())
        lines.append(f"It was chosen by {point['rule']}{asked} and reaches {reached} ({point['fitted_on']}).")
    return [*lines, ""]


def _use(info: Mapping[str, Any]) -> list[str]:
    images = {one["kind"] for one in info["reads"].values()} == {"image"}
    given = "images" if images else "cases"
    lines = ["## Use", "", "```bash", f"histotune predict FOLDER {given} -o predictions.csv", "```", "", "```python"]
    lines += ["import histotune", "", f'table = histotune.load("FOLDER").predict("{given}")', "```", ""]
    if not images:
        files = "; ".join(f"`{name}`: {_file(name, one['kind'])}" for name, one in info["reads"].items())
        lines.append(f"`cases` is a folder with {files}.")
    if any(one["kind"] == "image" for one in info["reads"].values()):
        lines.append(f"Images of any size are resized ({info['resize']}) as the training images were.")
    return lines + (_onnx(info["onnx"], info) if "onnx" in info else [])


def _file(name: str, kind: str) -> str:
    table = f"{name}.csv (.csv.gz, .parquet; its first column, or case_id, is the case)"
    forms = {"table": table, "image": f"{name}/ID.png"}
    return forms.get(kind, f"{name}/ID/ as `histotune prepare slides` writes it")


def _onnx(graph: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    """Say how to score with the ONNX graph, without histotune."""
    sides = ", ".join(f"`{name}`: uint8 [n, {shape[1]}, {shape[2]}, 3]" for name, shape in graph["inputs"].items())
    feed = ", ".join(f'"{name}": {name}' for name in graph["inputs"])
    return [
        "",
        "## ONNX",
        "",
        f"`{graph['file']}` (opset {graph['opset']}, SHA-256 `{graph['sha256']}`) is all of it as one graph: {sides}, "
        f"RGB, resized already ({info['resize']}) -> `probabilities`: float64 [n, {len(info['classes'])}]. When it was "
        f"written, onnxruntime found PyTorch's probabilities to within {graph['largest_difference']:.1g}.",
        "",
        "```python",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{graph["file"]}")',
        f'(probabilities,) = session.run(["probabilities"], {{{feed}}})',
        "```",
    ]


def _and(names: list[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def _number(value: Any) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"
