"""Reproductions (a paper's comparison -> its tables, measured again): one file each; a new file is a new paper."""

from histotune.reproductions.papers._base import (
    REPRODUCTIONS,
    ComparisonTable,
    Contender,
    Reproduction,
    Scale,
    Setting,
    published_tables,
)
from histotune.reproductions.papers._published import Published, PublishedTable, count, seconds, unshown

__all__ = [
    "REPRODUCTIONS",
    "ComparisonTable",
    "Contender",
    "Published",
    "PublishedTable",
    "Reproduction",
    "Scale",
    "Setting",
    "count",
    "published_tables",
    "seconds",
    "unshown",
]
