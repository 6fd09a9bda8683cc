"""Kinds of modality: a file here that registers a kind makes it known to cohorts, training and exports."""

from histotune.data.modalities._base import (
    MODALITIES,
    Bag,
    Batch,
    CaseSource,
    Column,
    Modality,
    Preprocessing,
    cut,
    over,
    refuse_options,
    tensor,
    to_device,
)

__all__ = [
    "MODALITIES",
    "Bag",
    "Batch",
    "CaseSource",
    "Column",
    "Modality",
    "Preprocessing",
    "cut",
    "over",
    "refuse_options",
    "tensor",
    "to_device",
]
