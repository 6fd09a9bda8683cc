"""Objectives (head + loss): one file each; a new file is a new loss."""

from histotune.models.losses._base import LOSSES, LinearObjective, Objective, ObjectiveInput, each_class, full_precision

__all__ = ["LOSSES", "LinearObjective", "Objective", "ObjectiveInput", "each_class", "full_precision"]
