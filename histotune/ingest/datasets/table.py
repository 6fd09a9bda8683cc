"""Any CSV or Parquet files joined on a case id, described by a small YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from histotune.data.modalities import Column
from histotune.errors import DataError
from histotune.ingest.datasets._base import DATASETS, Dataset, Info, Listing
from histotune.ingest.datasets._description import describe
from histotune.ingest.datasets._join import Join


@DATASETS.register("table")
@dataclass(frozen=True, kw_only=True)
class TableFiles(Dataset):
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
        own: tuple[Any, ...] = (file.name, stat.st_size, stat.st_mtime_ns)
        if any(Path(table.path) == Path(join.target.path) for table in join.tables.values()):
            own += ("without the target",)  # a cohort of an earlier version had the label among its columns
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
        result = [root] if root.is_file() else sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
        if len(result) != 1:
            message = (
                f"{len(result)} YAML files ({', '.join(path.name for path in result)})" if result else "no YAML file"
            )
            raise DataError(f"there is {message} in {root}; exactly one is needed. Expected {self.info.layout}")
        return result[0], describe(result[0])
