"""Ensembles (saved predictions -> merged predictions): one file each; a new file is a new strategy."""

from histotune.ensembles.strategies._base import ENSEMBLES, Ensemble, member_mean, normalised

__all__ = ["ENSEMBLES", "Ensemble", "member_mean", "normalised"]
