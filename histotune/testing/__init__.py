"""The laws of whatever can be added, as plain functions: `check_loss("mine")` in a plug-in author's own tests.

from histotune.extend import load_plugins
from histotune.testing import check_loss

load_plugins(Path("my_parts"))
check_loss("confidence_penalty")
"""

from histotune.testing.backbones import check_backbone
from histotune.testing.data import check_audit, check_dataset
from histotune.testing.ensembles import check_ensemble
from histotune.testing.figures import check_figure
from histotune.testing.fusions import check_fusion, check_redundancy
from histotune.testing.losses import check_loss
from histotune.testing.modalities import check_modality

__all__ = [
    "check_audit",
    "check_backbone",
    "check_dataset",
    "check_ensemble",
    "check_figure",
    "check_fusion",
    "check_loss",
    "check_modality",
    "check_redundancy",
]
