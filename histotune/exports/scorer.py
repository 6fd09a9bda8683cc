"""The models of an export on cases in memory: which members have input, logits, probabilities, a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.data.modalities import Column
from histotune.ensembles.strategies import Ensemble
from histotune.ingest.new_cases import Reads, what_is_read
from histotune.metrics.calibration import apply_temperatures
from histotune.metrics.scores import decide
from histotune.models.network import IMAGE
from histotune.models.predictor import Predictor

CaseInputs = np.ndarray | Mapping[str, Column]
"""uint8 images [n, S, S, 3], or {modality: column of n cases}."""


@dataclass(frozen=True)
class LoadedMember:
    """A trained model of an export, and the temperature by which its logits are divided."""

    trial: int
    temperature: float
    predictor: Predictor

    @property
    def image_size(self) -> int:
        """Side of the images that it reads, pixels."""
        return self.predictor.image_size

    def logits(self, cases: CaseInputs) -> np.ndarray:
        """Map n cases to logits [n, C]; zeros where they have no modality that it reads."""
        if self._knows(cases):
            return self.predictor.logits(cases)
        return np.zeros((_count(cases), len(self.predictor.classes)), np.float32)

    def has_input(self, cases: CaseInputs) -> np.ndarray:
        """Return for every case whether it has anything that the model reads, bool [n]."""
        return self.predictor.has_input(cases) if self._knows(cases) else np.zeros(_count(cases), bool)

    def _knows(self, cases: CaseInputs) -> bool:
        return isinstance(cases, np.ndarray) or any(name in cases for name in self.predictor.modalities)


@dataclass(frozen=True)
class Scorer:
    """A portable model, a single trial or an ensemble of trials, ready to predict.

    Attributes:
        folder: where it lies.
        info: what `export.json` says: how it was made, on which data and split, with which validation metrics.
        members: best first.
        ensemble: joins the members, at the temperature of the whole; the average for a single one.
    """

    folder: Path
    info: Mapping[str, Any]
    members: tuple[LoadedMember, ...]
    ensemble: Ensemble

    @property
    def name(self) -> str:
        """The export's name."""
        return str(self.info["name"])

    @property
    def digest(self) -> str:
        """What names this very model, its weights included."""
        return str(self.info["digest"])

    @property
    def study(self) -> str:
        """Name of the study that it was made in."""
        return str(self.info["study"]["name"])

    @property
    def study_folder(self) -> Path:
        """Where that study stood when the export was made."""
        return Path(self.info["study"]["folder"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return tuple(self.info["classes"])

    @property
    def positive(self) -> int:
        """Index of the positive class."""
        return int(self.info["positive"])

    @property
    def threshold(self) -> float | None:
        """Probability of the positive class from which on it is called, chosen on validation; None for C > 2."""
        threshold = self.info["threshold"]
        return None if threshold is None else float(threshold)

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Sides of the images that the members read, pixels, ascending."""
        return tuple(sorted({member.image_size for member in self.members}))

    @cached_property
    def reads(self) -> dict[str, Reads]:
        """What it reads, by modality."""
        parts = (part for member in self.members for part in member.predictor.parts)
        read = what_is_read((name, part.preparations[name]) for part in parts for name in part.modalities)
        ids = self.info.get("dataset", {}).get("id_columns", {})
        return {name: replace(one, id=ids.get(name, "")) for name, one in read.items()}

    @property
    def only_images(self) -> bool:
        """Whether images are all that it reads."""
        return {wanted.kind for wanted in self.reads.values()} == {IMAGE}

    def probabilities(self, cases: Mapping[int, CaseInputs]) -> np.ndarray:
        """Map {image size S: the same n cases} to probabilities [n, C], float64; see `Predictor.logits`.

        Members without input of a case do not count for it.
        """
        probabilities: np.ndarray = self.ensemble.predict(self.member_logits(cases), self.has_input(cases))
        return probabilities

    def member_logits(self, cases: Mapping[int, CaseInputs]) -> np.ndarray:
        """Map cases as in `probabilities` to the members' calibrated logits [M, n, C], float64."""
        logits = np.stack([member.logits(cases[member.image_size]) for member in self.members])
        return apply_temperatures(logits, [member.temperature for member in self.members])

    def has_input(self, cases: Mapping[int, CaseInputs]) -> np.ndarray:
        """Return which members have input of cases as in `probabilities`, bool [M, n]."""
        return np.stack([member.has_input(cases[member.image_size]) for member in self.members])

    def table(self, names: Mapping[str, Sequence[Any]], probabilities: np.ndarray) -> pd.DataFrame:
        """Return a row per case: `names`, then what `Export.predict` says of these probabilities [n, C]."""
        columns: dict[str, Any] = dict(names)
        columns |= {f"p_{name}": probabilities[:, index] for index, name in enumerate(self.classes)}
        classes = np.array(self.classes, dtype=object)
        columns["label"] = classes[decide(probabilities)]
        if self.threshold is not None:
            chosen = decide(probabilities, positive=self.positive, threshold=self.threshold)
            columns["label_at_threshold"] = classes[chosen]
        return pd.DataFrame(columns)


def _count(cases: CaseInputs) -> int:
    return len(cases) if isinstance(cases, np.ndarray) else len(next(iter(cases.values())).present)
