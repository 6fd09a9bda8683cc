"""What may be done next with a study, an export or slides: only commands that its state allows."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

from histotune.core import files
from histotune.data.imbalance import NATURAL
from histotune.data.splits import TEST
from histotune.storage import layout
from histotune.storage.records import TrialRecord, networks
from histotune.storage.selection import best_trials, ranked_trials
from histotune.storage.study_folder import COMPLETE, StudyFolder

TOP = 5  # members of the ensemble that is proposed
OUTER = 3  # folds of a confirmation, of a study without folds; `confirming` knows more
MOST_OUTER = 5


def after_search(store: StudyFolder) -> list[str]:
    """Return the lines that follow a study's leaderboard, of which the first begins with "Next: "."""
    if not ranked_trials(store):
        return [f"Next: {searching_on(store)} ({why_none(store)})"]
    steps = [f"{command} (trains the best configurations again, for a reliable score)" for command in confirming(store)]
    steps += combining(store, export=True) or exporting(store)
    steps = steps or [f"{searching_on(store)} (no weights are kept, and the study cannot be confirmed again)"]
    lines = [f"{step}, then" for step in steps[:-1]] + steps[-1:]
    return [f"{'     ' if place else 'Next:'} {line}" for place, line in enumerate(lines)]


def searching_on(store: StudyFolder) -> str:
    """Return the command that goes on with a search."""
    searched = [shlex.split(one["command"]) for one in store.commands()]
    spaces = [words[2] for words in searched if words[:2] == ["histotune", "search"] and len(words) > 2]
    ended = len(store.trials())
    more = f" --trials {2 * ended}" if ended else ""
    return f"histotune search {spaces[-1] if spaces else 'SPACE'} --study {store.settings.name}{more}"


def why_none(store: StudyFolder) -> str:
    """Return why a study has no result: how its trials ended."""
    ends = Counter(record.kind or str(record.state) for record in store.trials())
    if not ends:
        return "no trial has ended yet"
    if ends[str(COMPLETE)]:
        return f"no complete trial has a {store.settings.metric}"
    text = "no trial is complete: " + ", ".join(f"{count} {kind}" for kind, count in ends.most_common())
    return f"{text}; mend the cause first" if any(record.kind for record in store.trials()) else text


def confirming(store: StudyFolder) -> list[str]:
    """Return the command that confirms a study; none where it is confirmed, or cannot be."""
    settings = store.settings
    if settings.imbalance != NATURAL or settings.training_cases or not ranked_trials(store):
        return []
    if (store.folder / layout.CONFIRM / layout.CONFIRMATION).exists():
        return []
    folds = min(settings.folds, MOST_OUTER) or OUTER
    owners = _fewest_patients(store)
    outer = min(folds, owners)
    left = owners - -(-owners // max(outer, 1))  # of the rarest class, where the largest fold of it is scored
    if outer < 2 or left < (1 if settings.folds else 2):  # without folds, some of these choose the epoch
        return []
    return [f"histotune confirm {settings.name}" + (f" --outer {outer}" if outer < folds else "")]


def combining(store: StudyFolder, *, export: bool) -> list[str]:
    """Return the command that joins the best trials; none where no trial is complete, or the best has no weights."""
    if not ranked_trials(store):
        return []
    name, whole = store.settings.name, [_has_weights(one) for one in best_trials(store, TOP)]
    top = TOP if all(whole) else whole.index(False)
    written = f" --export exports/{name}" if export else ""
    return [f"histotune ensemble {name} --top {top} --strategy average{written}"] if top else []


def exporting(store: StudyFolder) -> list[str]:
    """Return the command that exports the best trial whose weights are there; none where there is none."""
    name = store.settings.name
    kept = (one.number for one in ranked_trials(store) if _has_weights(one))
    return [f"histotune export {name} {number} exports/{name} (the best trial with its weights)" for number in kept][:1]


def after_export(folder: Path) -> str:
    """Return the line that follows a written export."""
    parts = files.read_json(folder / layout.EXPORT).get("parts", {})
    if parts.get(TEST, {}).get("cases"):
        return f"Next: histotune evaluate {folder}"
    return (
        f"Next: histotune evaluate {folder} --on DATASET --data FOLDER, with an external cohort: its study has no "
        "sealed test set"
    )


def after_slides(out: Path) -> str:
    """Return the line that follows prepared slides, in the folder `out`."""
    command = f"histotune prepare slides --data {out}"
    if (out / "labels.csv").exists():
        return f"Next: {command}"
    labels = f"write {out / 'labels.csv'} with the columns slide and label, and patient where known"
    return f"Next: {labels}, then\n      {command}"


def _has_weights(record: TrialRecord) -> bool:
    return all((place / layout.WEIGHTS).exists() for place in networks(record.folder))


def _fewest_patients(store: StudyFolder) -> int:
    """Return the patients, of training and validation part, of the class that has the fewest."""
    known = store.known_labels().merge(store.split[["id", "patient"]], on="id")
    owners = known.groupby("label")["patient"].nunique()
    return int(owners.min()) if len(owners) == len(store.settings.classes) else 0
