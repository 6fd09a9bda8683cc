"""A reproduction as it was called, and the studies that it has."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from histotune.core.config import TrialConfig
from histotune.core.places import Places
from histotune.reproductions._lineup import LineUp
from histotune.reproductions.contract import Reproduction, Scale, Setting
from histotune.space import Space
from histotune.storage.study_folder import StudyStore


@dataclass(frozen=True)
class Asked:
    """A reproduction as it was called.

    Attributes:
        name, on: of the reproduction and its setting.
        spent: what the budget is called.
        place: of studies and prepared cohorts.
        data: where the data of the trainings are, or None.
        say: hears a line per training.
    """

    name: str
    on: str
    reproduction: Reproduction
    setting: Setting
    scale: Scale
    spent: str
    line_up: LineUp
    space: Space
    protocol: str
    place: Places
    data: str | os.PathLike[str] | None
    say: Callable[[str], None]

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""
        return TrialConfig.from_dict(self.space.default()).image_size

    def stores(self) -> dict[str, StudyStore]:
        """Return the study of every imbalance of the training part."""
        name = f"{self.name}-{self.setting.trained_as or self.on}-{self.protocol}-{self.spent}"
        several = len(self.setting.imbalances) > 1
        return {
            arm: StudyStore(self.place.runs / (f"{name}-{arm.replace(':', '-')}" if several else name))
            for arm in self.setting.arms(self.scale)
        }
