"""CFAL: six losses on one network, an ablation, and ensembles of four of them (Mahbub et al., 2024)."""

from __future__ import annotations

from pathlib import Path

from histotune.reproductions.papers._base import REPRODUCTIONS, ComparisonTable, Reproduction, read_settings

_LOSSES = {
    "CCE": "cross_entropy",
    "SphereFace": "sphereface",
    "CFAL": "cfal",
    "ArcFace": "arcface",
    "CosFace": "cosface",
    "Focal": "focal",
    "L_a": "gaussian_affinity",
    "L_cba": "class_balanced_affinity",
}
_LINE_UP = ("CCE", "SphereFace", "CFAL", "ArcFace", "CosFace", "Focal")
_MEMBERS = ("CFAL", "ArcFace", "CosFace", "Focal")
_ENSEMBLES = {f"Ensemble {strategy}": strategy for strategy in ("average", "max", "vote")}
_OTHERS = (
    "Cruz-Roa 2014",
    "Janowczyk 2016",
    "VGG16, Liu 2022",
    "AlexNet-BC, Liu 2022",
    "Kather 2019, VGG-19",
    "DenseNet, Ghosh 2021",
    "Xception, Ghosh 2021",
    "Bespoke CNN, Ghosh 2021",
    "Ensemble of four, Ghosh 2021",
)
_OF_DECISIONS = (
    "macro_f1",
    "accuracy",
    "macro_precision",
    "macro_recall",
    "positive_f1",
    "balanced_accuracy",
    "specificity",
)
_TABLES = (
    ComparisonTable("Losses and ensembles", (*_OTHERS, *_LINE_UP, *_ENSEMBLES), _OF_DECISIONS, "macro_f1"),
    ComparisonTable(
        "Ranking: AUROC of the scores",
        (*_LINE_UP, *_ENSEMBLES),
        ("auroc", "average_precision"),
        "auroc",
        "The AUROC of the paper's Table VI is (macro recall + macro specificity) / 2, computed from predicted classes: "
        "it ranks nothing, and is not shown beside these.",
    ),
    ComparisonTable("Ablation", ("CCE", "L_a", "L_cba", "CFAL"), ("macro_f1", "accuracy"), "macro_f1"),
    ComparisonTable(
        "Calibration",
        (*_LINE_UP, "Ensemble average", "Ensemble max"),
        ("nll", "ece", "brier"),
        "nll",
        "Lower is better. Scores are divided by a temperature that was fitted on the validation part; the shares of a "
        "vote of four are no probabilities.",
    ),
)


@REPRODUCTIONS.register("cfal", source="Mahbub et al., 2024, doi 10.1109/JBHI.2023.3336372")
def cfal() -> Reproduction:
    """Six losses on one network, the ablation of the centre-focused affinity loss, and ensembles of four losses."""
    return Reproduction(
        title="Center-Focused Affinity Loss for Class Imbalance Histology Image Classification (Mahbub et al., 2024)",
        contenders={label: (f"loss.name={loss}",) for label, loss in _LOSSES.items()},
        reference="CCE",
        members=_MEMBERS,
        ensembles=_ENSEMBLES,
        tables=_TABLES,
        figures=("effect_of_sigma", "effect_of_beta", "learned_features", "runtime_per_epoch"),
        confused=("CCE", "CFAL", "Ensemble average"),
        settings=read_settings(Path(__file__).with_suffix(".yaml")),
    )
