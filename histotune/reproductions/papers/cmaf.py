"""CMAF-Net, after the abstract: fusions, losses and parts of it compared; rare positives; transfer to BreakHis."""

from __future__ import annotations

from pathlib import Path

from histotune.reproductions.papers._base import REPRODUCTIONS, ComparisonTable, Reproduction, read_settings

OURS = "CMAF-Net"


def _contender(fusion: str, loss: str, redundancy: str, *further: str) -> tuple[str, ...]:
    named = (f"model.fusion.name={fusion}", f"loss.name={loss}", f"model.redundancy.name={redundancy}")
    return (*named, *(f"model.fusion.{edit}" for edit in further))


_TERM, _LOSS, _LEARNED = "cross_correlation", "acbfl", "temperature_mode=learnable"
_CONTENDERS = {
    OURS: _contender("cmaf", _LOSS, _TERM, _LEARNED),
    "CNN alone": _contender("none", _LOSS, "none", "branch=cnn"),
    "Transformer alone": _contender("none", _LOSS, "none", "branch=transformer"),
    "concat": _contender("concat", _LOSS, _TERM),
    "late": _contender("late", _LOSS, _TERM),
    "cross-attention": _contender("cross_attention", _LOSS, _TERM),
    "cross-entropy": _contender("cmaf", "cross_entropy", _TERM, _LEARNED),
    "focal": _contender("cmaf", "focal", _TERM, _LEARNED),
    "LDAM": _contender("cmaf", "ldam", _TERM, _LEARNED),
    "without redundancy": _contender("cmaf", _LOSS, "none", _LEARNED),
    "without temperature": _contender("cmaf", _LOSS, _TERM, "temperature_mode=fixed", "temperature=1.0"),
    "concat, cross-entropy": _contender("concat", "cross_entropy", "none"),
}
_FUSIONS = (OURS, "CNN alone", "Transformer alone", "concat", "late", "cross-attention")
_LOSSES = (OURS, "cross-entropy", "focal", "LDAM")
_ABLATION = (OURS, "concat", "without redundancy", "without temperature", "cross-entropy", "concat, cross-entropy")
_DECISIONS = ("sensitivity", "specificity", "balanced_accuracy")
_MOVED = "Each training decides at the threshold that has the best balanced accuracy on its validation part."
_PARTS = (
    "Without its cross-attention CMAF-Net is concat, without its loss cross-entropy; without temperature it is fixed "
    "at 1. The last row lacks all four."
)


def _tables(
    what: str, rows: tuple[str, ...], note: str = "", *, elsewhere: bool = False
) -> tuple[ComparisonTable, ...]:
    decided, ranked = f"{what}, decided at", ("auroc", "average_precision")
    return (
        ComparisonTable(f"{decided} .5", rows, _DECISIONS, "balanced_accuracy", note, elsewhere=elsewhere),
        ComparisonTable(
            f"{decided} the threshold of validation", rows, _DECISIONS, "balanced_accuracy", _MOVED, True, elsewhere
        ),
        ComparisonTable(f"{what}: ranking", rows, ranked, "auroc", elsewhere=elsewhere),
    )


@REPRODUCTIONS.register("cmaf", source="after the abstract of CMAF-Net, doi 10.1038/s41598-025-32794-1")
def cmaf() -> Reproduction:
    """Fusions, losses and an ablation on two branches of one image; rare positives; zero-shot transfer to BreakHis."""
    return Reproduction(
        title="CMAF-Net, after the abstract: its equations are not public, and this is not the official architecture",
        contenders=_CONTENDERS,
        reference=OURS,
        members=(),
        ensembles={},
        tables=(
            *_tables("Fusions", _FUSIONS),
            *_tables("Losses", _LOSSES),
            *_tables("Ablation", _ABLATION, _PARTS),
            *_tables("All", tuple(_CONTENDERS), _PARTS, elsewhere=True),
        ),
        confused=(OURS, "concat"),
        costs=True,
        settings=read_settings(Path(__file__).with_suffix(".yaml")),
    )
