"""Redundancy terms (branch embeddings -> a loss that keeps them from saying the same): one file each."""

from histotune.models.redundancies._base import REDUNDANCIES, Redundancy, build_redundancy

__all__ = ["REDUNDANCIES", "Redundancy", "build_redundancy"]
