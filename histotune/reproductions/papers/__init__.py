"""Reproductions (a paper's comparison -> its tables, measured again): one file each; a new file is a new paper."""

from histotune.reproductions.papers._base import (
    REPRODUCTIONS,
    ComparisonTable,
    Contender,
    Published,
    Reproduction,
    Scale,
    Setting,
)

__all__ = [
    "REPRODUCTIONS",
    "ComparisonTable",
    "Contender",
    "Published",
    "Reproduction",
    "Scale",
    "Setting",
]
