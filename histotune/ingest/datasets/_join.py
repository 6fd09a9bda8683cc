"""Tables of several files joined on a case id: who has a label, who has which modality, and who matches nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.data.modalities import Column
from histotune.errors import DataError, suggest
from histotune.ingest.datasets._base import Listing, Problem, in_order, listing_table
from histotune.ingest.datasets._manifest import SPLITS
from histotune.ingest.tables import Rows, TableFile, read_frame, read_rows, require_columns, three


@dataclass(frozen=True)
class Target:
    """The file with the labels; every other name is one of its columns.

    Args:
        path: relative to the data's root.
        column: of the labels.
        id: of the case ids.
        classes: the labels that are classes, in order; () takes all, sorted.
        positive: the class whose recall is called sensitivity; "" takes the second.
        patient: of the patients; "" takes every case for a patient of its own.
        site, part: of sites, and of train, val, test; "" where there is none.
    """

    path: str
    column: str
    id: str = "case_id"
    classes: tuple[str, ...] = ()
    positive: str = ""
    patient: str = ""
    site: str = ""
    part: str = ""


@dataclass(frozen=True)
class Join:
    """Labels and modalities.

    Args:
        tables: modality -> its file.
        expected: what an error says when a file is not there.
    """

    target: Target
    tables: Mapping[str, TableFile]
    expected: str

    def listing(self, root: Path) -> Listing:
        """List the cases that have a label and at least one modality.

        Raises:
            DataError: as `read_rows`; the ids of a modality are no cases; fewer than two classes.
        """
        result, classes, problems = self._labels(root)
        rows = {name: read_rows(root, file, self.expected) for name, file in self.tables.items()}
        present = pd.DataFrame({name: self._present(name, rows[name], result["id"]) for name in rows})
        alone = ~present.any(axis=1)
        problems += [
            Problem(f"{self.target.path}: {case}", "no_modality", "no table has this case")
            for case in result.loc[alone, "id"]
        ]
        self._refuse_classes_without_cases(result[~alone], classes)
        report = self._report(result, present, rows)
        facts = {"patients_known": bool(self.target.patient), "report": report, "own_split": bool(self.target.part)}
        facts["id_columns"] = {name: file.id for name, file in self.tables.items()}
        table = listing_table(_records(result[~alone].assign(label=result["label"].map(classes.index))))
        paths = [self.target.path, *(file.path for file in self.tables.values())]
        stats = {path: (root / path).stat() for path in paths}
        sources = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in sorted(stats.items())]
        return Listing(table, classes, self._positive(classes), facts, problems, sources)

    def columns(self, root: Path, ids: Sequence[str]) -> dict[str, Column]:
        """Return every modality, its cases as in `ids`."""
        rows = {name: read_rows(root, file, self.expected) for name, file in self.tables.items()}
        return {name: Column("table", *read.of(ids)) for name, read in rows.items()}

    def _labels(self, root: Path) -> tuple[pd.DataFrame, tuple[str, ...], list[Problem]]:
        """Return id, label (a class name), patient, site and part of every case with a label; and who has none."""
        target, path = self.target, root / self.target.path
        frame, _ = read_frame(path, lambda name: True, self.expected)
        named = {"id": target.id, "label": target.column, "patient": target.patient or target.id}
        named |= {name: column for name, column in (("site", target.site), ("part", target.part)) if column}
        require_columns(path, frame, list(named.values()))
        result = pd.DataFrame({name: frame[column].fillna("").str.strip() for name, column in named.items()})
        result = result[result["id"] != ""].drop_duplicates()
        again = result.loc[result["id"].duplicated(), "id"].unique().tolist()
        if again:
            raise DataError(f"{path}: {len(again)} ids stand in several rows that differ: {three(again)}")
        classes = target.classes or in_order(set(result["label"]) - {""})
        for name in classes:
            if name not in set(result["label"]):
                words = suggest(name, set(result["label"]) - {""})
                raise DataError(f"{path}: no case has the class {name!r} in column {target.column!r}. {words}")
        if target.part:
            result["part"] = result["part"].map(self._part)
        kinds = np.select(
            [result["label"] == "", ~result["label"].isin(classes), result["patient"] == ""],
            ["no_label", "other_class", "no_patient"],
            "",
        )
        reasons = {
            "no_label": f"column {target.column!r} is empty",
            "other_class": f"its {target.column!r} is none of the classes {', '.join(classes)}",
            "no_patient": f"column {target.patient!r} is empty",
        }
        problems = [
            Problem(f"{target.path}: {case}", kind, reasons[kind])
            for case, kind in zip(result["id"], kinds.tolist(), strict=True)
            if kind
        ]
        return result[kinds == ""].reset_index(drop=True), classes, problems

    def _part(self, word: str) -> str:
        if word.lower() not in SPLITS:
            known = suggest(word, [name for name in SPLITS if name])
            raise DataError(f"{self.target.path}: column {self.target.part!r} holds {word!r}. {known}")
        return SPLITS[word.lower()]

    def _present(self, name: str, rows: Rows, cases: pd.Series) -> np.ndarray:
        present = rows.of(cases.tolist())[1]
        if not present.any():
            path, target = self.tables[name].path, self.target
            empty = set(rows.ids) & set(cases)
            if empty:
                raise DataError(f"modality {name!r} is absent for everybody: {path} has {len(empty)} empty rows")
            raise DataError(
                f"modality {name!r} is absent for everybody: no id of {path} (column {self.tables[name].id!r}: "
                f"{three(rows.ids)}) is a case with a label of {target.path} (column {target.id!r}: "
                f"{three(cases.tolist())}). Give both files the same ids"
            )
        return present

    def _refuse_classes_without_cases(self, result: pd.DataFrame, classes: Sequence[str]) -> None:
        counts = result["label"].value_counts().reindex(list(classes), fill_value=0)
        where = f"{self.target.path}, column {self.target.column!r}: of the cases that have a modality"
        if (counts > 0).sum() < 2:
            message = ", ".join(f"{n} are {name!r}" for name, n in counts.items()) or "none has a label"
            raise DataError(f"{where}, {message}: that is one class, and a classifier needs at least two")
        if (counts == 0).any():
            raise DataError(f"{where}, none is {counts.idxmin()!r}: leave that class out of the classes")

    def _positive(self, classes: Sequence[str]) -> int:
        named = self.target.positive
        if named and named not in classes:
            raise DataError(f"there is no class {named!r} to be positive. {suggest(named, classes)}")
        return classes.index(named) if named else 1

    def _report(self, result: pd.DataFrame, present: pd.DataFrame, rows: Mapping[str, Rows]) -> list[str]:
        """Describe which cases lack what, which ids match nothing, and what was left out."""
        some = present.any(axis=1)
        message = [f"{some.sum()} cases with a label and a modality; {present.all(axis=1).sum()} have every modality"]
        for name, file in self.tables.items():
            absent = result.loc[some & ~present[name], "id"].tolist()
            if absent:
                message.append(f"{name}: absent in {len(absent)} cases ({three(absent)})")
            strangers = sorted(set(rows[name].ids) - set(result["id"]))
            if strangers:
                message.append(
                    f"{name}: {len(strangers)} ids of {file.path} are no case with a label ({three(strangers)})"
                )
            message += [f"{name}: {note}" for note in rows[name].notes]
        if not some.all():
            lonely = result.loc[~some, "id"].tolist()
            message.append(f"{len(lonely)} cases with a label have no modality and are left out ({three(lonely)})")
        return message


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
