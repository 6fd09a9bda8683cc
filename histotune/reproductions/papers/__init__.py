"""Reproductions (a paper's comparison -> its tables, measured again): one file each; a new file is a new paper."""

from histotune.reproductions.contract import REPRODUCTIONS, ComparisonTable, Published, Reproduction, Scale, Setting
from histotune.reproductions.out_of_fold import Contender, FoldedSetting, OutOfFold

__all__ = [
    "REPRODUCTIONS",
    "ComparisonTable",
    "Contender",
    "FoldedSetting",
    "OutOfFold",
    "Published",
    "Reproduction",
    "Scale",
    "Setting",
]
