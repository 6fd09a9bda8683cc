"""Redundancy terms (branch embeddings -> a loss that makes them complementary): one file each."""

from histotune.models.redundancies._base import REDUNDANCIES, Redundancy, build_redundancy

__all__ = ["REDUNDANCIES", "Redundancy", "build_redundancy"]
