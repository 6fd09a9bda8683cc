"""The laws of a figure, on a study of your own: plain numbers, a caption with patients, a page that stands alone."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core.runtime import Places
from histotune.reporting import figures
from histotune.reporting.figures import FIGURES
from histotune.storage.study_folder import StudyFolder
from histotune.testing._contract import Contract, alike, documented, require

FIGURE = Contract("figure")
SEALED = "sealed"


def check_figure(
    name: str, study: StudyFolder, places: Places | None = None, *, without: Iterable[str] = (), **options: Any
) -> None:
    """Check every law of a figure on a study that holds what it shows; the study is only read.

    Args:
        name: as registered.
        study: such as `StudyFolder(Path("runs/mine"))`.
        places: where prepared cohorts are kept; None takes the usual places.
        without: names of laws that it breaks by design.
        options: of the figure; its defaults where none are given.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such figure, option or law.
    """
    FIGURES.check(name, options)
    FIGURE.check(name, name, study, places, options, without=without)


def leaves(value: Any) -> Iterator[Any]:
    """Walk over everything that nested dataclasses and tuples hold."""
    if dataclasses.is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@FIGURE.law
def it_is_documented(name: str, study: StudyFolder, places: Places | None, options: dict[str, Any]) -> None:
    """A summary is there, and every default lies in the range of its parameter."""
    documented(FIGURES, name)


@FIGURE.law
def numbers_are_plain_and_come_out_the_same_again(
    name: str, study: StudyFolder, places: Places | None, options: dict[str, Any]
) -> None:
    """`compute` gives words, numbers and arrays in frozen dataclasses and tuples, the same every time."""
    first, second = (leaves(figures.compute(name, study, places=places, **options)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        require(isinstance(one, (str, bool, int, float, np.ndarray)), f"its numbers hold {one!r}")
        plain = isinstance(one, str) or getattr(one, "dtype", np.dtype(float)).kind in "OUS"
        if plain:
            require(np.array_equal(one, other), f"{one!r} becomes {other!r}")
        else:
            alike(one, other, "a number, computed twice")


@FIGURE.law
def a_drawing_says_what_it_shows_of_how_many_patients(
    name: str, study: StudyFolder, places: Places | None, options: dict[str, Any]
) -> None:
    """A drawing has traces, a title, and a caption that counts patients."""
    drawn = figures.draw(name, figures.compute(name, study, places=places, **options))
    require(drawn.data, "nothing is drawn")
    meta = drawn.layout.meta or {}
    require(meta.get("title") and drawn.layout.title.text, "it has no title")
    require("patient" in meta.get("caption", ""), f"its caption counts no patients: {meta.get('caption')!r}")


@FIGURE.law
def a_page_stands_alone_and_is_the_same_again(
    name: str, study: StudyFolder, places: Places | None, options: dict[str, Any]
) -> None:
    """The saved page loads nothing from elsewhere and has the same bytes every time."""
    numbers = figures.compute(name, study, places=places, **options)
    with tempfile.TemporaryDirectory() as folder:
        (page,), (again,) = (figures.save(name, numbers, Path(folder) / str(at)) for at in range(2))
        text = page.read_text(encoding="utf-8")
        require(page.name == f"{name}.html" and 'name="viewport"' in text, "its page is no page for small screens")
        require("<script src" not in text and "<link" not in text, "its page loads something from elsewhere")
        require(page.read_bytes() == again.read_bytes(), "its page has other bytes the second time")


@FIGURE.law
def the_seal_stays_closed(name: str, study: StudyFolder, places: Places | None, options: dict[str, Any]) -> None:
    """`compute` needs nothing of the sealed test labels and leaves them closed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = StudyFolder(Path(folder) / study.folder.name)
        shutil.copytree(study.folder, copy.folder, ignore=shutil.ignore_patterns(SEALED))
        figures.compute(name, copy, places=places, **options)
        require(not (copy.folder / SEALED).exists(), "it opened the sealed test labels")
