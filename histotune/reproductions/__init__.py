"""Reproductions (a paper's comparison -> its tables, measured again): one file each; a new file is a new paper."""

from histotune.reproductions._base import REPRODUCTIONS, Published, Reproduction, Scale, Setting, Table
from histotune.reproductions._folded import Contender, FoldedSetting, OutOfFold

__all__ = [
    "REPRODUCTIONS",
    "Contender",
    "FoldedSetting",
    "OutOfFold",
    "Published",
    "Reproduction",
    "Scale",
    "Setting",
    "Table",
]
