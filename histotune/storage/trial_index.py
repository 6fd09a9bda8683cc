"""A cache of the ended trials of a study: one file instead of two per trial, for studies of ten thousand.

It is derived and never the truth: an entry holds as long as its trial's metrics.json has the same size and time, and
whatever is missing or stale is read from the trial folders. A damaged cache is built anew.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from histotune.core import files
from histotune.errors import HistotuneError
from histotune.storage import layout
from histotune.storage.records import read_config

FORMAT = 1


def read_trials(folder: Path, cache: Path) -> dict[int, dict[str, Any]]:
    """Return {number: {"record": ..., "config": ...}} of the ended trials in `folder`, by number.

    `record` is what metrics.json holds, `config` what config.yaml holds ({} where there is none). The cache is written
    where something was missing in it and its place can be written to.
    """
    known, ended = _load(cache), _ended(folder)
    result: dict[int, dict[str, Any]] = {}
    for number, (place, stamp) in sorted(ended.items()):
        entry = known.get(str(number))
        result[number] = entry if entry and entry["stamp"] == stamp else _read(Path(place), stamp)
    if len(result) != len(known) or any(result.get(int(number)) is not entry for number, entry in known.items()):
        with contextlib.suppress(HistotuneError):  # a reader without the right to write reads all the same
            _save(cache, result)
    return result


def _ended(folder: Path) -> dict[int, tuple[str, list[int]]]:
    ended = {}
    if not folder.is_dir():
        return {}
    for entry in os.scandir(folder):
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError):  # it has not ended
                status = os.stat(f"{entry.path}/{layout.RECORD}")  # noqa: PTH116 (10,000 of them)
                ended[int(entry.name)] = (entry.path, [status.st_mtime_ns, status.st_size])
    return ended


def _read(folder: Path, stamp: list[int]) -> dict[str, Any]:
    config = read_config(folder) if (folder / layout.CONFIG).exists() else {}
    return {"stamp": stamp, "record": files.read_json(folder / layout.RECORD), "config": config}


def _load(cache: Path) -> dict[str, dict[str, Any]]:
    try:
        saved = json.loads(cache.read_text(encoding="utf-8"))
        trials = saved["trials"] if saved["format"] == FORMAT else {}
        return {number: entry for number, entry in trials.items() if entry.keys() == {"stamp", "record", "config"}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _save(cache: Path, result: dict[int, dict[str, Any]]) -> None:
    whole = {"format": FORMAT, "trials": result}
    files.write_text(cache, json.dumps(files.without_nan(whole), separators=(",", ":")))
