"""For authors of plug-ins, one import: the registries, the contracts behind them, and what helps to fulfil these.

from histotune.extend import LOSSES, Interval, LinearObjective, ObjectiveInput

A name is imported when it is first used, so that a loss loads where only the training packages are installed.
`histotune.testing` checks what a plug-in registers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histotune.core.parameters import YES_OR_NO, Allowed, Interval, OneOf
    from histotune.core.registry import load_plugins
    from histotune.data.audits import AUDITS, LEAK, NOTE, OK, WARNING, Finding, Subject
    from histotune.data.modalities import (
        MODALITIES,
        Bag,
        Batch,
        CaseSource,
        Column,
        Modality,
        Preprocessing,
        refuse_options,
    )
    from histotune.ensembles.strategies import ENSEMBLES, Ensemble, member_mean, normalised
    from histotune.errors import ConfigError, DataError, StudyError
    from histotune.ingest.datasets import DATASETS, BadFile, Dataset, Info, Listing, Picture, Problem, listing_table
    from histotune.ingest.images import read_image
    from histotune.models.backbones import (
        BACKBONES,
        Backbone,
        BackboneInput,
        BackboneOutput,
        InstanceBackbone,
        TokenPool,
        Widths,
    )
    from histotune.models.fusions import FUSIONS, AttentionMaps, Fusion, only_present, several
    from histotune.models.losses import LOSSES, LinearObjective, Objective, ObjectiveInput, each_class, full_precision
    from histotune.models.redundancies import REDUNDANCIES, Redundancy
    from histotune.reporting.figures import FIGURES, Figure, FigureSource
    from histotune.reporting.sections import SECTIONS, Content, Findings, Section, SectionRequest
    from histotune.reproductions.papers import REPRODUCTIONS, Published, Reproduction, Scale, Setting

_HOMES = {
    "core.parameters": "YES_OR_NO Allowed Interval OneOf",
    "core.registry": "load_plugins",
    "errors": "ConfigError DataError StudyError",
    "models.losses": "LOSSES LinearObjective Objective ObjectiveInput each_class full_precision",
    "models.backbones": "BACKBONES Backbone BackboneInput BackboneOutput InstanceBackbone TokenPool Widths",
    "models.fusions": "FUSIONS AttentionMaps Fusion only_present several",
    "models.redundancies": "REDUNDANCIES Redundancy",
    "data.modalities": "MODALITIES Bag Batch CaseSource Column Modality Preprocessing refuse_options",
    "data.audits": "AUDITS LEAK NOTE OK WARNING Finding Subject",
    "ingest.datasets": "DATASETS BadFile Dataset Info Listing Picture Problem listing_table",
    "ingest.images": "read_image",
    "ensembles.strategies": "ENSEMBLES Ensemble member_mean normalised",
    "reporting.figures": "FIGURES Figure FigureSource",
    "reporting.sections": "SECTIONS Content Findings Section SectionRequest",
    "reproductions.papers": "REPRODUCTIONS Published Reproduction Scale Setting",
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AUDITS",
    "BACKBONES",
    "DATASETS",
    "ENSEMBLES",
    "FIGURES",
    "FUSIONS",
    "LEAK",
    "LOSSES",
    "MODALITIES",
    "NOTE",
    "OK",
    "REDUNDANCIES",
    "REPRODUCTIONS",
    "SECTIONS",
    "WARNING",
    "YES_OR_NO",
    "Allowed",
    "AttentionMaps",
    "Backbone",
    "BackboneInput",
    "BackboneOutput",
    "BadFile",
    "Bag",
    "Batch",
    "CaseSource",
    "Column",
    "ConfigError",
    "Content",
    "DataError",
    "Dataset",
    "Ensemble",
    "Figure",
    "FigureSource",
    "Finding",
    "Findings",
    "Fusion",
    "Info",
    "InstanceBackbone",
    "Interval",
    "LinearObjective",
    "Listing",
    "Modality",
    "Objective",
    "ObjectiveInput",
    "OneOf",
    "Picture",
    "Preprocessing",
    "Problem",
    "Published",
    "Redundancy",
    "Reproduction",
    "Scale",
    "Section",
    "SectionRequest",
    "Setting",
    "StudyError",
    "Subject",
    "TokenPool",
    "Widths",
    "each_class",
    "full_precision",
    "listing_table",
    "load_plugins",
    "member_mean",
    "normalised",
    "only_present",
    "read_image",
    "refuse_options",
    "several",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"histotune.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
