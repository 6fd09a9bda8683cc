"""Patients of the IDC patches as bags and graphs: is their share of positive patches high?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from histotune.data.cohort import EMBEDDINGS
from histotune.data.modalities import Column
from histotune.data.modalities.bag import join
from histotune.data.modalities.graph import RANGES, connect
from histotune.errors import DataError
from histotune.ingest.datasets._base import DATASETS, BadFile, Dataset, Info, Listing, listing_table
from histotune.ingest.datasets.idc import Idc
from histotune.ingest.decode import content_digest
from histotune.ingest.images import fit

CLASSES = ("few", "many")


@DATASETS.register("idc_bags")
@dataclass(frozen=True, kw_only=True)
class IdcBags(Dataset):
    """Patients as bags and graphs of embedded IDC patches: is their share of positive patches above the median?

    Args:
        least: patches that a patient needs.
        backbone, weights, mean, std: the frozen network, as in `embeddings.load_encoder`.
        side: to which a patch of 50 px is scaled for it, pixels.
        edges, k, limit: of the graph, as in `modalities.graph.neighbours`; patches lie 50 px apart.
    """

    least: int = 20
    backbone: str = "timm/tf_efficientnet_lite0"
    weights: str = "package"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    side: int = 64
    edges: str = "knn"
    k: int = 8
    limit: float = 0.0

    name: ClassVar[str] = "idc_bags"
    images: ClassVar[bool] = False
    info: ClassVar[Info] = Info(
        title="Patients of the IDC patches as bags and graphs: share of positive patches above the median or not",
        source=Idc.info.source,
        size=Idc.info.size,
        licence=Idc.info.licence,
        layout=Idc.info.layout,
        protocol="patient",
        folders=Idc.info.folders,
    )

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name, allowed in RANGES.items():
            allowed.check(name, getattr(self, name))
        if self.least < 1:
            raise ValueError(f"least must be at least 1, got {self.least}")

    def options(self) -> dict[str, Any]:
        """Return what changes the cohort, `mean` and `std` only where given: earlier versions did not know them."""
        known = super().options()
        return {name: value for name, value in known.items() if name not in ("mean", "std") or value is not None}

    def scan(self, root: Path | None) -> Listing:
        """List the patients with enough patches; the published train, validation and test patients get their `part`."""
        result = Idc().scan(root)
        patients = result.table.groupby("patient").agg(
            share=("label", "mean"), count=("label", "size"), part=("part", "first")
        )
        enough = patients[patients["count"] >= self.least]
        if enough.empty:
            most = patients["count"].max()
            raise DataError(f"no patient in {root} has {self.least} patches (the most: {most}): lower `least`")
        median = enough["share"].median()
        rows = [
            {"id": patient, "patient": patient, "label": int(row["share"] > median), "part": row["part"]}
            for patient, row in enough.iterrows()
        ]
        report = [
            f"{len(patients) - len(enough)} of {len(patients)} patients have fewer than {self.least} patches: left out",
            f"share of positive patches: {CLASSES[0]} is up to, {CLASSES[1]} above the median of {median:.3f}",
            "a patch of which a slide's edge cut off more than half is in no bag",
        ]
        table = result.table[result.table["patient"].isin(enough.index)]
        sources = [tuple(row) for row in table[["path", "bytes", "mtime"]].itertuples(index=False)]
        facts = {"patients_known": True, "report": report}
        return Listing(listing_table(rows), CLASSES, 1, facts, result.problems, sources)

    def columns(self, listing: Listing, root: Path | None, cache: Path) -> Mapping[str, Column]:
        """Embed the patches of every patient, row by row: `patches` is the bag, `graph` the same with neighbours."""
        from histotune.ingest.embeddings import embed, load_encoder  # torch: not before there is something to embed

        encoder = load_encoder(self.backbone, self.weights, self.side, mean=self.mean, std=self.std)
        patches = self._readable(listing, root)
        records = patches.to_dict("records")

        def images(start: int, stop: int) -> np.ndarray:
            pictures = (Idc().read(record, root) for record in records[start:stop])
            return np.stack([fit(picture.pixels, encoder.side) for picture in pictures])

        vectors = embed(encoder, images, patches["content"].tolist(), cache / EMBEDDINGS)
        rows = [np.flatnonzero(patches["patient"] == patient) for patient in listing.table["id"]]
        bags = join([vectors[at] for at in rows], [patches[["x", "y"]].to_numpy()[at] for at in rows])
        graphs = connect(bags, edges=self.edges, k=self.k, limit=self.limit)
        return {"patches": Column("bag", bags, bags.counts > 0), "graph": Column("graph", graphs, bags.counts > 0)}

    def _readable(self, listing: Listing, root: Path | None) -> pd.DataFrame:
        """List the patches that can be read, patient by patient and row by row, with the digest of their pixels."""
        table = Idc().scan(root).table
        table = table[table["patient"].isin(listing.table["id"])].sort_values(["patient", "y", "x"])
        contents = []
        for record in table.to_dict("records"):
            try:
                contents.append(content_digest(Idc().read(record, root).pixels))
            except BadFile:  # `scan` reports the rule
                contents.append("")
        table = table.assign(content=contents)
        return table[table["content"] != ""].reset_index(drop=True)
