"""How the cases of a comparison are scored: the one thing in which reproductions differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from histotune.reproductions.out_of_fold_measure import Comparison
from histotune.reproductions.report import ReproductionReport
from histotune.reproductions.rows import TrainingsByContender
from histotune.reproductions.train import ReproductionRequest

TrainedArms = Mapping[str, TrainingsByContender]
"""{study: its trainings}, by imbalance or by seed of the folds."""


class Scoring(ABC):
    """What a request needs, from its check to its figures; the methods are called in this order."""

    def __init__(self, request: ReproductionRequest) -> None:
        self.request = request

    @abstractmethod
    def check(self) -> str:
        """Refuse what cannot be done or began otherwise, before anything is trained; returns what will be trained."""

    @abstractmethod
    def train(self) -> TrainedArms:
        """Train what is missing; what has ended is not repeated."""

    @abstractmethod
    def compare(self, trained: TrainedArms) -> Comparison:
        """Score the cases, and measure and compare all rows."""

    @abstractmethod
    def report(self, comparison: Comparison) -> ReproductionReport:
        """Return what the report contains besides the tables."""

    @abstractmethod
    def draw(self, comparison: Comparison, folder: Path) -> list[Path]:
        """Write the figures into a folder and return them."""
