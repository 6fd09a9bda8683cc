"""Backbones (one modality's batch -> tokens and a pooled vector): one file each; a new file is a new backbone."""

from histotune.models.backbones._base import (
    BACKBONES,
    Backbone,
    BackboneInput,
    BackboneOutput,
    Widths,
    build_backbone,
    check_kind,
    reading,
)
from histotune.models.backbones._instances import InstanceBackbone
from histotune.models.backbones._pool import TokenPool

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneInput",
    "BackboneOutput",
    "InstanceBackbone",
    "TokenPool",
    "Widths",
    "build_backbone",
    "check_kind",
    "reading",
]
