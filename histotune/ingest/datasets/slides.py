"""What `histotune prepare slides FOLDER` wrote, joined with a label of every slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from histotune.core.files import read_table
from histotune.data.modalities import Column
from histotune.data.modalities.bag import Bags
from histotune.data.modalities.graph import GraphModality, stacked
from histotune.errors import DataError, StudyError, suggest
from histotune.ingest.datasets._base import DATASETS, Dataset, Info, Listing, Problem, listing_table
from histotune.ingest.datasets._manifest import SPLITS
from histotune.ingest.tables import read_frame, require_columns, three

_OWN = ("patient", "site", "split")


@DATASETS.register("slides")
@dataclass(frozen=True, kw_only=True)
class Slides(Dataset):
    """Your own whole slides as bags and graphs of embedded patches, which `histotune prepare slides FOLDER` makes.

    Args:
        labels: CSV with the columns slide (id or file name) and label and, where known, patient, site and split
            (train, val, test); relative to the prepared folder.
        positive: name of the class whose recall is called sensitivity; "" takes the second of two in order.
    """

    labels: str = "labels.csv"
    positive: str = ""

    name: ClassVar[str] = "slides"
    images: ClassVar[bool] = False
    info: ClassVar[Info] = Info(
        title="your own whole slides, prepared: bags and graphs of embedded patches",
        source="your own disk: `histotune prepare slides FOLDER` writes FOLDER-bags",
        size="any",
        licence="your own",
        layout="slides.csv and slides/ as `histotune prepare slides FOLDER` writes them, and labels.csv with the "
        "columns slide and label and, where known, patient, site, split (train, val, test)",
    )

    def scan(self, root: Path | None) -> Listing:
        """List the slides that have a label."""
        if root is None or not (root / "slides.csv").is_file():
            raise DataError(f"no prepared slides in {root}. Expected {self.info.layout}")
        slides = read_table(root / "slides.csv", ("id", "file"), {"id": str, "file": str})
        labels = self._labels(root)
        pairs = zip(slides["id"], slides["file"], strict=True)
        known = {name: slide for slide, file in pairs for name in (slide, file, Path(file).name)}
        ids = labels["slide"].map(known)
        if not ids.notna().any():
            raise DataError(
                f"no slide of {root / self.labels} is among the prepared ones: it has {three(labels['slide'].tolist())}"
                f", prepared are {three(slides['id'].tolist())}"
            )
        report = self._report(labels.loc[ids.isna(), "slide"].tolist(), slides)
        labels = labels.assign(id=ids)[ids.notna()]
        _refuse_two_labels(root / self.labels, labels)
        labels = labels.drop_duplicates("id").set_index("id")
        classes = tuple(sorted(set(labels["label"]) - {""}))
        rows, problems = _rows(slides, labels, classes)
        if not rows:
            raise DataError(f"none of {len(problems)} slides in {root} can be used; the first: {problems[0].reason}")
        if self.positive and self.positive not in classes:
            raise DataError(f"there is no class {self.positive!r} to be positive. {suggest(self.positive, classes)}")
        positive = classes.index(self.positive) if self.positive else min(1, len(classes) - 1)
        facts = {"patients_known": "patient" in labels, "report": report, "own_split": "split" in labels}
        try:
            stored = [path for row in rows for path in sorted((root / "slides" / row["id"]).iterdir())]
            sources = [(str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns) for p in stored]
        except OSError as error:
            raise DataError(f"{root} is damaged ({error}): run `histotune prepare slides` again") from error
        return Listing(listing_table(rows), classes, positive, facts, problems, sources)

    def columns(self, listing: Listing, root: Path | None, cache: Path) -> Mapping[str, Column]:
        """Join the slides: `patches` is the bag, `graph` the same with neighbours."""
        assert root is not None
        try:
            result = [GraphModality().load(root / "slides" / name) for name in listing.table["id"]]
            graphs = stacked(result)
        except (OSError, ValueError, StudyError) as error:
            raise DataError(f"{root} is damaged ({error}): run `histotune prepare slides` again") from error
        bags = Bags(graphs.features, graphs.coordinates, graphs.offsets, graphs.neighbours[:, :0])
        there = graphs.counts > 0
        return {"patches": Column("bag", bags, there), "graph": Column("graph", graphs, there)}

    def _labels(self, root: Path) -> pd.DataFrame:
        path = root / self.labels
        expected = "Write it with the columns slide and label, and patient where known"
        frame, _ = read_frame(path, lambda name: True, expected)
        require_columns(path, frame, ["slide", "label"])
        for name in frame.columns:
            if name not in ("slide", "label", *_OWN) and suggest(name, _OWN).startswith("Did you mean"):
                raise DataError(f"{path} has a column {name!r}. {suggest(name, _OWN)}")
        frame = frame.fillna("").apply(lambda column: column.str.strip())
        for value in frame.get("split", pd.Series(dtype=str)):
            if value.lower() not in SPLITS:
                raise DataError(f"{path}: split {value!r} is unknown. {suggest(value, [s for s in SPLITS if s])}")
        return frame

    def _report(self, unmatched: list[str], slides: pd.DataFrame) -> list[str]:
        report = [f"{len(slides)} slides with {slides['patches'].sum()} patches"]
        if unmatched:
            report.append(
                f"{len(unmatched)} slides of {self.labels} are not among the prepared ones: {three(unmatched)}"
            )
        return report


def _refuse_two_labels(path: Path, labels: pd.DataFrame) -> None:
    text = labels.groupby("id").nunique()
    two = text.index[(text.drop(columns="slide") > 1).any(axis=1)].tolist()
    if two:
        raise DataError(f"{path}: {len(two)} slides stand in several rows that differ: {three(two)}")


def _rows(
    slides: pd.DataFrame, labels: pd.DataFrame, classes: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return one row per slide that can be used, and why the others cannot."""
    rows, problems = list[dict[str, Any]](), list[Problem]()
    for name, file in zip(slides["id"], slides["file"], strict=True):
        text = labels.loc[name].to_dict() if name in labels.index else {"label": ""}
        if not text["label"]:
            problems.append(Problem(file, "no_label", f"slide {name} has no label"))
        elif not text.get("patient", name):
            problems.append(Problem(file, "no_patient", f"slide {name} has no patient, and others have"))
        else:
            row = {"id": name, "label": classes.index(text["label"]), "patient": text.get("patient", name)}
            rows.append({**row, "site": text.get("site", ""), "part": SPLITS[text.get("split", "").lower()]})
    return rows, problems
