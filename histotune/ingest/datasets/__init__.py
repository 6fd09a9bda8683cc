"""Dataset readers (files on disk -> Cohort): one file each; a new file is a new dataset."""

from histotune.ingest.datasets._base import DATASETS, BadFile, Dataset, Info, Listing, Picture, Problem, listing_table
from histotune.ingest.datasets._locate import locate

__all__ = [
    "DATASETS",
    "BadFile",
    "Dataset",
    "Info",
    "Listing",
    "Picture",
    "Problem",
    "listing_table",
    "locate",
]
