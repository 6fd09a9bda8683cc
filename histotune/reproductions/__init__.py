"""Reproductions (a paper's comparison -> its tables, measured again): one file each; a new file is a new paper."""

from histotune.reproductions._base import REPRODUCTIONS, Published, Reproduction, Scale, Setting, Table

__all__ = ["REPRODUCTIONS", "Published", "Reproduction", "Scale", "Setting", "Table"]
