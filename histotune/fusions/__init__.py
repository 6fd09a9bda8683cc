"""Fusions (branch outputs -> one vector): one file each; a new file is a new fusion."""

from histotune.fusions._base import FUSIONS, Fusion

__all__ = ["FUSIONS", "Fusion"]
