"""TCGA-BRCA by patient: image features of the slide, genes, copy number, mutations and the clinical record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from histotune.data.modalities import Column
from histotune.errors import ConfigError, DataError, suggest
from histotune.ingest.datasets._base import DATASETS, Dataset, Info, Listing
from histotune.ingest.datasets._join import Join, Target
from histotune.ingest.tables import TableFile

TARGETS = {
    "pam50": Target("labels.csv", "pam50", classes=("LumA", "LumB", "Basal", "Her2", "Normal"), patient="case_id"),
    "ihc": Target("labels.csv", "ihc_subtype", classes=("HR+/HER2-", "HER2+", "TNBC"), patient="case_id"),
}
FILES = {
    "image": "hif_image_features.csv.gz",
    "rna": "rnaseq.csv.gz",
    "cnv": "cnv.csv.gz",
    "mutations": "mut.csv.gz",
    "clinical": "clinical.csv",
}
RECEPTORS = ("er_ihc", "pr_ihc", "her2_ihc", "her2_fish")
_OUTCOME = "what became of the patient is known after the label only"
_NEVER: Mapping[str, str] = {
    "os_*": _OUTCOME,
    "porpoise_survival_months": _OUTCOME,
    "porpoise_censorship": _OUTCOME,
    "porpoise_site": "the hospital is a batch, and the protocol by site needs it unseen",
    "porpoise_age": "same as age_dx",
    "porpoise_is_female": "same as sex",
    "porpoise_oncotree_code": "same as cancer_type_detailed",
    "tmb": "in a part of the rows its decimal point is lost (4633333333), and where it stood cannot be known",
}
_RECEPTORS_WHY = (
    "receptor status nearly is the {} label; `include_receptor_status` (--include-receptor-status) keeps it"
)
_READS_RNA = (
    "rna: PAM50 is computed from gene expression, so that an arm that reads rna reads its own label; "
    "image, cnv, mutations and clinical are the honest inputs"
)


@DATASETS.register("tcga_brca")
@dataclass(frozen=True, kw_only=True)
class TcgaBrca(Dataset):
    """TCGA breast cancers by patient: image features, RNA, copy number, mutations, clinic; PAM50 or IHC subtype.

    Args:
        target: `pam50` (LumA, LumB, Basal, Her2, Normal) or `ihc` (HR+/HER2-, HER2+, TNBC).
        include_receptor_status: whether ER, PR and HER2 status, which nearly are these labels, are inputs.
        modalities: names separated by commas out of image, rna, cnv, mutations, clinical; "" takes all.
    """

    target: str = "pam50"
    include_receptor_status: bool = False
    modalities: str = ""

    name: ClassVar[str] = "tcga_brca"
    images: ClassVar[bool] = False
    info: ClassVar[Info] = Info(
        title="TCGA-BRCA by patient: 607 features of the H&E slide, 1,558 genes, 1,333 copy number calls, 21 "
        "mutations, the clinical record; PAM50 (5 classes) and IHC subtype (3 classes)",
        source="https://github.com/mahmoodlab/PORPOISE (RNA, copy number, mutations), "
        "https://github.com/Path-AI/hif2gene (image features), https://www.cbioportal.org (clinical record and labels)",
        size="7 files, 870 patients, 6 MB",
        licence="GPLv3 (PORPOISE), CC BY-NC-SA 4.0 (hif2gene)",
        layout="labels.csv, clinical.csv, hif_image_features.csv.gz, rnaseq.csv.gz, cnv.csv.gz and mut.csv.gz, each "
        "with the column case_id (TCGA-XX-XXXX)",
        protocol="patient",
        folders=("tcga_brca", "tcga_brca_multimodal"),
    )

    def __post_init__(self) -> None:
        """Refuse an unknown target or modality."""
        if self.target not in TARGETS:
            raise ConfigError(f"dataset 'tcga_brca': unknown target {self.target!r}. {suggest(self.target, TARGETS)}")
        if not isinstance(self.include_receptor_status, bool):
            given = self.include_receptor_status
            raise ConfigError(f"dataset 'tcga_brca': include_receptor_status is true or false, got {given!r}")
        for name in self._names:
            if name not in FILES:
                raise ConfigError(f"dataset 'tcga_brca': unknown modality {name!r}. {suggest(name, FILES)}")

    def scan(self, root: Path | None) -> Listing:
        """List the patients with a label and at least one modality; the site is the barcode's second field."""
        if root is None or not root.is_dir():
            raise DataError(f"{root} is no folder. Expected {self.info.layout}")
        listing = self._join(root).listing(root)
        table = listing.table.assign(site=listing.table["id"].str.split("-").str[1])
        facts = dict(listing.facts)
        if self.target == "pam50" and "rna" in self._names:
            facts |= {"report": [*facts["report"], _READS_RNA], "reads_label": ["rna"]}
        return dataclasses.replace(listing, table=table, facts=facts)

    def columns(self, listing: Listing, root: Path | None, cache: Path) -> Mapping[str, Column]:
        """Read all tables."""
        assert root is not None
        return self._join(root).columns(root, listing.table["id"].tolist())

    @property
    def _names(self) -> list[str]:
        return [name.strip() for name in self.modalities.split(",") if name.strip()] or list(FILES)

    def _join(self, root: Path) -> Join:
        receptors = {} if self.include_receptor_status else dict.fromkeys(RECEPTORS, _RECEPTORS_WHY.format(self.target))
        tables = {
            name: TableFile(FILES[name], exclude={**receptors, **_NEVER} if name == "clinical" else {})
            for name in self._names
        }
        if not any((root / file.path).is_file() for file in tables.values()):
            raise DataError(f"no tables of TCGA-BRCA in {root}. Expected {self.info.layout}")
        return Join(TARGETS[self.target], tables, f"Download it from {self.info.source}; expected {self.info.layout}")
