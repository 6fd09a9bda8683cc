"""The README of an export, a model card after Mitchell et al. (arXiv 1810.03993).

What the model is and is for, how it was made, what its numbers mean and what they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from histotune.core import files
from histotune.ingest.new_cases import what_is_read
from histotune.models.predictor import load_model
from histotune.storage import layout
from histotune.storage.seal import EXTERNAL, SEALED

FEW = 12  # columns that are named
SHOWN = ("balanced_accuracy", "auroc", "accuracy", "sensitivity", "specificity", "macro_f1", "mcc")
CALIBRATION = ("ece", "brier", "nll")
_CALLED = ("sensitivity", "specificity")


def card(info: Mapping[str, Any]) -> str:
    """Write Markdown from what `export.json` holds."""
    parts = [_head, _intended, _read, _made, validation, sealed, elsewhere, _limits, _versions, _use]
    return "\n".join(line for part in parts for line in part(info)) + "\n"


def add_evaluation(folder: Path, evaluation: Mapping[str, Any], seal: str) -> None:
    """Write into an export what an evaluation of it found, and its card anew; the digest stays that of the model.

    Args:
        evaluation: as in the study's `evaluation.json`.
        seal: how often the study's test part was opened by now, in words; "" where that is not known.

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
    return [*lines, f"{what} that tells {_and(info['classes'])} apart. For research; it is no medical device.", ""]


def _intended(info: Mapping[str, Any]) -> list[str]:
    kinds = {one["kind"] for one in info["reads"].values()}
    tissue = "images of tissue" if "image" in kinds else "cases"
    return [
        "## Intended use",
        "",
        f"- for: research on {tissue} like those it was trained on, by people who can judge a prediction themselves; "
        "comparing methods; ranking cases for a second look",
        "- not for: diagnosis, treatment or triage of patients; other organs, stains, scanners or magnifications, "
        "before `histotune evaluate EXPORT --on YOUR_COHORT` has measured it there; classes that it does not know, "
        f"for it always answers with one of {len(info['classes'])}",
        "",
    ]


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
        f"- licence of the data: {data['licence'] or 'not stated'}; of the model: not stated, and whoever trained it "
        "decides within that",
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
    lines += ["", "| part | cases | patients |", "|---|---|---|"] if info.get("parts") else []
    lines += [f"| {name} | {one['cases']:,} | {one['patients']:,} |" for name, one in info.get("parts", {}).items()]
    lines += ["", "| member | trial | configuration | temperature | validation " + info["metric"] + " |"]
    lines.append("|---|---|---|---|---|")
    for k, member in enumerate(info["members"]):
        value = number(member["validation"].get(info["metric"]))
        lines.append(f"| {k} | {member['trial']} | `{member['digest']}` | {member['temperature']:.3g} | {value} |")
    return [*lines, ""]


def _limits(info: Mapping[str, Any]) -> list[str]:
    data, left_out = info["dataset"], info["dataset"].get("left_out") or {}
    sites = data.get("sites", 0)
    text = f"{sites} sites" if sites > 1 else "one site" if sites == 1 else "sites that are not known"
    lines = [
        "## Limits",
        "",
        f"- Its cases come from {text}: how it does at another hospital, scanner or stain is known only from an "
        "external cohort above.",
        "- Nothing was measured by sex, age or ethnicity of the patients: a difference between groups would not show.",
        "- A probability is calibrated on validation cases; where the positive class is rarer or more frequent than "
        "there, it is not.",
    ]
    if not data.get("patients_known", True):
        lines.append("- Patients are not known: each image counts as one, and every interval is too narrow.")
    if left_out:
        lines.append(f"- Files left out of the data: {', '.join(f'{n} {kind}' for kind, n in left_out.items())}.")
    return [*lines, ""]


def _versions(info: Mapping[str, Any]) -> list[str]:
    if not (versions := info.get("versions")):
        return []
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    return ["## Versions", "", f"Exported with {text}.", ""]


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
    lines += _onnx(info["onnx"], info) if "onnx" in info else []
    return lines + (_torch_export(info["torch_export"], info) if "torch_export" in info else [])


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


def _torch_export(graph: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    """Say how to score with the program of torch.export, without histotune."""
    sides = ", ".join(f"`{name}`: uint8 [n, {shape[1]}, {shape[2]}, 3]" for name, shape in graph["inputs"].items())
    return [
        "",
        "## torch.export",
        "",
        f"`{graph['file']}` (written by torch {graph['torch']}, SHA-256 `{graph['sha256']}`) is all of it as one "
        f"program: {sides}, RGB, resized already ({info['resize']}) -> probabilities: float64 "
        f"[n, {len(info['classes'])}]. Read back, it found the export's probabilities to within "
        f"{graph['largest_difference']:.1g}.",
        "",
        "```python",
        "import torch",
        "",
        f'program = torch.export.load("{graph["file"]}").module()',
        f"probabilities = program({', '.join(graph['inputs'])})",
        "```",
    ]


def _and(names: list[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def validation(info: Mapping[str, Any]) -> list[str]:
    """Say what was reached where the model was chosen, how well it is calibrated there, and the threshold."""
    result, intervals = info["validation"], info.get("validation_intervals", {})
    lines = [
        "## Validation metrics",
        "",
        "Members and their temperatures were chosen on these very cases, so these numbers are optimistic; "
        "`histotune evaluate` measures on the study's sealed test part. Intervals: 95 %, over resampled patients.",
        "",
        "| metric | validation |",
        "|---|---|",
    ]
    text = {name: intervals.get(name, result[name]) for name in (*SHOWN, *CALIBRATION) if name in result}
    lines += [f"| {name} | {number(value)} |" for name, value in text.items()]
    temperatures = ", ".join(f"{member['temperature']:.3g}" for member in info["members"])
    lines += ["", f"Calibration: logits are divided by a temperature fitted on these cases ({temperatures})."]
    if info["threshold"] is not None:
        positive = info["classes"][info["positive"]]
        lines += [f"`label_at_threshold` is `{positive}` from a probability of {info['threshold']:.4f} on."]
    if point := info.get("operating_point"):
        asked = "" if point["asked"] is None else f" {point['asked']:g}"
        reached = ", ".join(f"{name} {number(point[name])}" for name in _CALLED)
        lines += ["", f"It was chosen by {point['rule']}{asked} and reaches {reached} ({point['fitted_on']})."]
    return [*lines, ""]


def sealed(info: Mapping[str, Any]) -> list[str]:
    """Say what every opening of the sealed test part found, and how often it was opened for anything."""
    result = _evaluations(info, SEALED)
    lines = ["## Sealed test part", ""]
    if not result:
        lines.append("Not measured. `histotune evaluate` opens it, once, on the record.")
    else:
        headers = [f"opening {one['openings_before'] + 1}, {one['time'][:10]}" for one in result]
        lines += _table(result, headers)
        lines += _at_threshold(result)
    if info.get("seal"):
        lines += ["", info["seal"]]
    return [*lines, ""]


def elsewhere(info: Mapping[str, Any]) -> list[str]:
    """Say what was reached on each external cohort, apart from the study's own cases, and how far off it lies."""
    result = _evaluations(info, EXTERNAL)
    if not result:
        return []
    lines = ["## External cohorts", "", "Nothing was fitted to them, not even the threshold.", ""]
    lines += _table(result, [f"{one['dataset']}, {one['time'][:10]}" for one in result])
    lines += _at_threshold(result)
    for one in result:
        lines += ["", *(f"- {one['dataset']}: {name} {_shift(shift)}" for name, shift in one.get("shift", {}).items())]
        lines += [one["note"]] if one.get("note") else []
    return [*lines, ""]


def number(value: Any) -> str:
    """Write a number, or one with its interval; what is not known is a dash."""
    if isinstance(value, Mapping):
        return f"{number(value['value'])} [{number(value['low'])}, {number(value['high'])}]"
    return "-" if value is None or value != value else f"{value:.4f}"


def _evaluations(info: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    return [one for one in info.get("evaluations", []) if one["part"] == part]


def _table(result: Iterable[Mapping[str, Any]], headers: Iterable[str]) -> list[str]:
    columns = list(result)
    names = [name for name in (*SHOWN, *CALIBRATION) if any(name in one["metrics"] for one in columns)]
    lines = ["| metric | " + " | ".join(headers) + " |", "|---" * (len(columns) + 1) + "|"]
    lines.append(
        "| cases (patients) | " + " | ".join(f"{one['cases']:,} ({one['patients']:,})" for one in columns) + " |"
    )
    for name in names:
        lines.append(f"| {name} | " + " | ".join(number(one["metrics"].get(name)) for one in columns) + " |")
    return lines


def _at_threshold(result: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in result:
        at = one.get("at_threshold") or {}
        if text := [f"{name} {number(at[name])}" for name in _CALLED if name in at]:
            lines += ["", f"At the threshold {one['threshold']:.4f}, {one['time'][:10]}: {', '.join(text)}."]
    return lines


def _shift(shift: Mapping[str, Any]) -> str:
    if shift["value"] is None:
        return f"is not known, for there are too few patients; {shift['unit']}"
    value, own, high = (number(shift[key]) for key in ("value", "own", "own_high"))
    verdict = " - **shifted**" if shift["shifted"] else ""
    return f"{value} (its own patients: {own}, 95 % below {high}){verdict}; {shift['unit']}"
