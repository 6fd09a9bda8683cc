"""Which trial another one began from: a descendant goes on from an ancestor's checkpoint instead of from epoch 1."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from histotune.core import files

NAME = "parent.json"


class Parent(NamedTuple):
    """A trial as another one found it.

    Args:
        number: of the trial.
        epoch: after which its checkpoint was taken; the descendant's first own epoch is the next.
    """

    number: int
    epoch: int


def read_parent(folder: Path) -> Parent | None:
    """Read whom the trial in `folder` began from; None when it began by itself."""
    path = folder / NAME
    return Parent(**files.read_json(path)) if path.exists() else None


def inherited(folder: Path) -> int:
    """Return how many epochs of the trial in `folder` another one trained."""
    parent = read_parent(folder)
    return parent.epoch if parent else 0


def ancestor(folder: Path) -> Path:
    """Return the folder of the trial with which the line of the one in `folder` began; its own where it began it."""
    while parent := read_parent(folder):
        folder = folder.parent / f"{parent.number:05d}"
    return folder


def write_parent(folder: Path, parent: Parent) -> None:
    """Write whom the trial in `folder` begins from."""
    files.write_json(folder / NAME, parent._asdict())
