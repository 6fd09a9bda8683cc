"""Where a dataset's files are, or what to download when they are not there."""

from __future__ import annotations

import os
from pathlib import Path

from histotune.errors import ConfigError, DataError
from histotune.ingest.datasets._base import DATASETS, Dataset


def locate(name: str, data: str | os.PathLike[str] | None, option: str = "--data") -> Path | None:
    """Find the data of dataset `name`: `data` if given, else `$HISTOTUNE_DATA/<name>`, else `data/<name>`.

    Args:
        option: what a user gives `data` by.

    Returns:
        An absolute path, or None for made-up data.

    Raises:
        DataError: there is nothing; names what to download, from where, how large it is, its licence and layout.
        ConfigError: the dataset is unknown, or `data` was given for made-up data.
    """
    dataset = DATASETS.build(name)
    if not dataset.needs_data:
        if data:
            raise ConfigError(f"dataset {name!r} is made up and reads no files: leave out {option} {str(data)!r}")
        return None
    tried = [Path(data).expanduser()] if data else _usual_places(name, dataset)
    for path in tried:
        if path.exists():
            return path.absolute()
    raise DataError(f"no data for {name!r} at {' or '.join(map(str, tried))}.\n{describe(name, dataset, option)}")


def describe(name: str, dataset: Dataset, option: str = "--data") -> str:
    """Describe in a few lines what to download, from where, how large it is, its licence and the layout expected."""
    info = dataset.info
    lines = [
        ("what", info.title),
        ("source", info.source),
        ("size", info.size),
        ("licence", info.licence),
        ("layout", info.layout),
    ]
    message = "\n".join(f"  {what + ':':9}{text}" for what, text in lines if text)
    return f"{message}\nThen give its place: {option} PATH, or $HISTOTUNE_DATA/{name}, or data/{name}."


def _usual_places(name: str, dataset: Dataset) -> list[Path]:
    folders = dataset.info.folders or (name,)
    shelf = os.environ.get("HISTOTUNE_DATA")
    roots = [Path(shelf).expanduser(), Path("data")] if shelf else [Path("data")]
    return [root / folder for root in roots for folder in folders]
