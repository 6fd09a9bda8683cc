"""Fusions (branch outputs -> one vector): one file each; a new file is a new fusion."""

from collections.abc import Mapping

from histotune.core.config import LATE, LATE_SAYS, Spec
from histotune.models.backbones import Widths
from histotune.models.fusions._attention import COLDEST, HOTTEST
from histotune.models.fusions._base import FUSIONS, AttentionMaps, Fusion, only_present, several, unpadded

__all__ = [
    "COLDEST",
    "FUSIONS",
    "HOTTEST",
    "AttentionMaps",
    "Fusion",
    "build_fusion",
    "only_present",
    "several",
    "unpadded",
]


def build_fusion(spec: Spec, widths: Mapping[str, Widths]) -> Fusion:
    """Build the fusion that a trial's configuration names.

    A configuration of today says what a late fusion is `of`. One that does not is of version 0.2 or earlier, where
    `late` was `mean_embedding`, and is built as it was then.

    Raises:
        ConfigError: an unknown name, or a parameter that is refused.
    """
    past = spec.name == LATE and LATE_SAYS not in spec.params
    return FUSIONS.build("mean_embedding" if past else spec.name, widths, **spec.params)
