"""Dataset readers (files on disk -> Cohort): one file each; a new file is a new dataset."""

from histotune.datasets._base import DATASETS, BadFile, Dataset, Info, Listing, Picture, Problem
from histotune.datasets._images import RESIZES, fit, read_image
from histotune.datasets._locate import locate

__all__ = [
    "DATASETS",
    "RESIZES",
    "BadFile",
    "Dataset",
    "Info",
    "Listing",
    "Picture",
    "Problem",
    "fit",
    "locate",
    "read_image",
]
