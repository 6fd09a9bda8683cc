"""Backbones (one modality's batch -> tokens and a pooled vector): one file each; a new file is a new backbone."""

from histotune.backbones._base import (
    BACKBONES,
    Backbone,
    BackboneInput,
    BackboneOutput,
    Widths,
    build_backbone,
    check_kind,
)

__all__ = ["BACKBONES", "Backbone", "BackboneInput", "BackboneOutput", "Widths", "build_backbone", "check_kind"]
