"""Any CSV or Parquet files joined on a case id, described by a small YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from histotune.datasets._base import DATASETS, Dataset, Info, Listing
from histotune.datasets._join import Join, Target
from histotune.datasets._tables import TableFile
from histotune.errors import ConfigError, DataError, suggest
from histotune.modalities import Column

OWN = ("id", "target", "modalities")
TARGET = ("file", "id", "column", "classes", "positive", "patient", "site", "part")
MODALITY = ("file", "id", "include", "exclude", "numbers", "categories")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@DATASETS.register("table")
@dataclass(frozen=True, kw_only=True)
class Tables(Dataset):
    """Your own tables: CSV or Parquet files joined on a case id, one modality each, described by a small YAML file."""

    name: ClassVar[str] = "table"
    images: ClassVar[bool] = False
    info: ClassVar[Info] = Info(
        title="your own tables",
        source="your own disk",
        size="any",
        licence="your own",
        layout="a YAML file, given as the data, with `target:` (file, column; where known classes, positive, patient, "
        "site, part) and `modalities:` (a name each: file; where needed id, include, exclude, numbers, categories), "
        "and `id:`, the column of case ids; files are CSV (also .gz) or Parquet, relative to the YAML file",
        folders=("table",),
    )

    def scan(self, root: Path | None) -> Listing:
        """List the cases with a label and at least one modality."""
        file, join = self._described(root)
        listing = join.listing(file.parent)
        stat = file.stat()
        own = (file.name, stat.st_size, stat.st_mtime_ns)
        return Listing(
            listing.table, listing.classes, listing.positive, listing.facts, listing.problems, [own, *listing.sources]
        )

    def columns(self, listing: Listing, root: Path | None, cache: Path) -> Mapping[str, Column]:
        """Read all tables."""
        file, join = self._described(root)
        return join.columns(file.parent, listing.table["id"].tolist())

    def _described(self, root: Path | None) -> tuple[Path, Join]:
        if root is None or not root.exists():
            raise DataError(f"{root} does not exist. Expected {self.info.layout}")
        found = [root] if root.is_file() else sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
        if len(found) != 1:
            said = f"{len(found)} YAML files ({', '.join(path.name for path in found)})" if found else "no YAML file"
            raise DataError(f"there is {said} in {root}; exactly one is needed. Expected {self.info.layout}")
        return found[0], describe(found[0])


def describe(file: Path) -> Join:
    """Read a description.

    Raises:
        ConfigError: it is no YAML, a key is unknown or missing, or a value is of the wrong form.
    """
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from error
    own = _mapping(file, "", said, OWN, ("target", "modalities"))
    column = _word(file, "id", own.get("id", "case_id"))
    target = _mapping(file, "target", own["target"], TARGET, ("file", "column"))
    words = {name: _word(file, f"target.{name}", value) for name, value in target.items() if name != "classes"}
    given = own["modalities"]
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{file}: modalities must name at least one, such as 'clinical: {{file: clinical.csv}}'")
    tables = {str(name): _table(file, str(name), value, column) for name, value in given.items()}
    classes = _words(file, "target.classes", target.get("classes", ()))
    path = words.pop("file")
    expected = f"{file} names it, relative to its own folder"
    return Join(Target(path, **{"id": column, **words}, classes=classes), tables, expected)


def _table(file: Path, name: str, value: Any, column: str) -> TableFile:
    where = f"modalities.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{file}: a modality's name is letters, digits, '_' and '-', got {name!r}")
    said = _mapping(file, where, value, MODALITY, ("file",))
    lists = {key: _words(file, f"{where}.{key}", said[key]) for key in MODALITY[2:] if key in said}
    exclude = dict.fromkeys(lists.pop("exclude", ()), f"{file.name} says so")
    own = _word(file, f"{where}.id", said.get("id", column))
    return TableFile(_word(file, f"{where}.file", said["file"]), own, exclude=exclude, **lists)


def _mapping(file: Path, where: str, value: Any, known: Sequence[str], needed: Sequence[str]) -> Mapping[str, Any]:
    said = f"{file}: {where}" if where else str(file)
    if not isinstance(value, dict):
        raise ConfigError(f"{said} must be a mapping of {', '.join(known)}, got {value!r}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{said} has no key {key!r}. {suggest(str(key), known)}")
    for key in needed:
        if key not in value:
            raise ConfigError(f"{said} needs the key {key!r}")
    return value


def _word(file: Path, where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigError(f"{file}: {where} must be a word, got {value!r}; put it in quotes")
    return str(value)


def _words(file: Path, where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{file}: {where} must be a list such as [a, b], got {value!r}")
    return tuple(_word(file, f"{where}[{at}]", word) for at, word in enumerate(value))
