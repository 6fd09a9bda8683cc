"""The YAML file that describes somebody's own tables, checked key by key."""

from __future__ import annotations

import glob
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from histotune.errors import ConfigError, suggest
from histotune.ingest.datasets._join import Join, Target
from histotune.ingest.tables import PARQUET, TableFile

OWN = ("id", "target", "modalities")
TARGET = ("file", "id", "column", "classes", "positive", "patient", "site", "part")
MODALITY = ("file", "id", "include", "exclude", "numbers", "categories")
_TABLES = (".csv", ".csv.gz", ".tsv", ".txt", ".xlsx", ".xls", *PARQUET)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def describe(file: Path) -> Join:
    """Read a description.

    Raises:
        ConfigError: it is no YAML, a key is unknown or missing, or a value is of the wrong form.
    """
    if file.name.lower().endswith(_TABLES):
        raise ConfigError(
            f"{file} is a table, and a YAML file is needed that says what stands in it. Write one beside it and name "
            f"that, such as cohort.yaml: {{id: CASE_COLUMN, target: {{file: {file.name}, column: LABEL_COLUMN, "
            f"patient: PATIENT_COLUMN}}, modalities: {{clinical: {{file: {file.name}}}}}}}"
        )
    try:
        message = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from error
    own = _mapping(file, "", message, OWN, ("target", "modalities"))
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
    result = Target(path, **{"id": column, **words}, classes=classes)
    return Join(result, {name: _without(result, table) for name, table in tables.items()}, expected)


def _without(target: Target, table: TableFile) -> TableFile:
    """Leave the columns of the target out of a modality that reads the same file: they are the answer, or name it."""
    if Path(table.path) != Path(target.path):
        return table
    columns = {target.column: "it is the label"}
    columns |= dict.fromkeys((target.patient, target.site, target.part), "it belongs to the target")
    own = {glob.escape(column): why for column, why in columns.items() if column and column != table.id}
    return replace(table, exclude={**own, **table.exclude})


def _table(file: Path, name: str, value: Any, column: str) -> TableFile:
    where = f"modalities.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{file}: a modality's name is letters, digits, '_' and '-', got {name!r}")
    message = _mapping(file, where, value, MODALITY, ("file",))
    lists = {key: _words(file, f"{where}.{key}", message[key]) for key in MODALITY[2:] if key in message}
    exclude = dict.fromkeys(lists.pop("exclude", ()), f"{file.name} says so")
    own = _word(file, f"{where}.id", message.get("id", column))
    return TableFile(_word(file, f"{where}.file", message["file"]), own, exclude=exclude, **lists)


def _mapping(file: Path, where: str, value: Any, known: Sequence[str], needed: Sequence[str]) -> Mapping[str, Any]:
    message = f"{file}: {where}" if where else str(file)
    if not isinstance(value, dict):
        raise ConfigError(f"{message} must be a mapping of {', '.join(known)}, got {textwrap.shorten(repr(value), 80)}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{message} has no key {key!r}. {suggest(str(key), known)}")
    for key in needed:
        if key not in value:
            raise ConfigError(f"{message} needs the key {key!r}")
    return value


def _word(file: Path, where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigError(f"{file}: {where} must be a word, got {value!r}; put it in quotes")
    return str(value)


def _words(file: Path, where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{file}: {where} must be a list such as [a, b], got {value!r}")
    return tuple(_word(file, f"{where}[{at}]", word) for at, word in enumerate(value))
