"""The README of an export: what the model is, how it was made, what its numbers mean and what they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = ("balanced_accuracy", "auroc", "accuracy", "sensitivity", "specificity", "macro_f1", "mcc", "ece")


def card(info: Mapping[str, Any]) -> str:
    """Write Markdown from what `export.json` holds."""
    return "\n".join([*_head(info), *_made(info), *_measured(info), *_use(info)]) + "\n"


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
        "Members, temperatures and threshold were chosen on these very cases, so these numbers are optimistic; "
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
    return [*lines, ""]


def _use(info: Mapping[str, Any]) -> list[str]:
    lines = ["## Use", "", "```bash", "histotune predict FOLDER images -o predictions.csv", "```", "", "```python"]
    lines += ["import histotune", "", 'table = histotune.load("FOLDER").predict("images")', "```", ""]
    lines.append(f"Images of any size are resized ({info['resize']}) as the training images were.")
    return lines + (_onnx(info["onnx"], info) if "onnx" in info else [])


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
