"""Fusions (branch outputs -> one vector): one file each; a new file is a new fusion."""

from histotune.models.fusions._attention import COLDEST, HOTTEST
from histotune.models.fusions._base import FUSIONS, AttentionMaps, Fusion, only_present, several, unpadded

__all__ = ["COLDEST", "FUSIONS", "HOTTEST", "AttentionMaps", "Fusion", "only_present", "several", "unpadded"]
