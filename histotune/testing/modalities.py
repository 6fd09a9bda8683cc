"""The laws of a kind of modality: what is stored, what is fitted on the training part alone, and how batches are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from histotune.data.modalities import MODALITIES, Bag, Batch, Modality
from histotune.errors import ConfigError, StudyError
from histotune.testing._contract import Contract, alike, documented, finite, refused, require

MODALITY = Contract("kind of modality")
CPU = torch.device("cpu")
CASES = 24
MakeCases: TypeAlias = Callable[[np.random.Generator, np.ndarray], Any]
"""(generator, labels [N]) -> stored cases, all different."""


def check_modality(name: str, make: MakeCases, *, without: Iterable[str] = ()) -> None:
    """Check every law of a kind of modality.

    Args:
        name: as registered.
        make: draws stored cases, one for each of the labels (0 or 1) that it is given.
        without: names of laws that it breaks by design.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such kind or law.
    """
    MODALITIES.check(name, {})
    MODALITY.check(name, name, make, without=without)


def labels_of(cases: int = CASES) -> np.ndarray:
    """Return labels 0 and 1 that take turns."""
    return np.arange(cases) % 2


def _made(name: str, make: MakeCases, seed: int = 0) -> tuple[Modality, Any]:
    return MODALITIES.build(name), make(np.random.default_rng(seed), labels_of())


def same_batch(one: Batch, other: Batch, what: str, *, atol: float = 0.0) -> None:
    """Require that two batches are the same; values that are missing are the same, too."""
    pairs = zip(*(batch if isinstance(batch, Bag) else (batch,) for batch in (one, other)), strict=True)
    for first, second in pairs:
        alike(first, second, what, atol=atol)


@MODALITY.law
def it_is_documented(name: str, make: MakeCases) -> None:
    """A summary is there."""
    documented(MODALITIES, name)


@MODALITY.law
def what_is_saved_is_loaded(name: str, make: MakeCases) -> None:
    """Cases pass through a folder unchanged."""
    modality, held = _made(name, make)
    with tempfile.TemporaryDirectory() as folder:
        modality.save(held, Path(folder))
        loaded = modality.load(Path(folder))
        counts = modality.cases(loaded), modality.cases(held)
        require(counts == (CASES, CASES), f"{CASES} cases become {counts[0]} loaded ones")
        require(modality.digests(loaded) == modality.digests(held), "digests of loaded cases differ")
        rows = np.array([5, 0, 17])
        one, other = (modality.source(stored, CPU).take(rows) for stored in (loaded, held))
        same_batch(one, other, "loaded cases")
        del loaded, one


@MODALITY.law
def a_missing_or_damaged_folder_is_refused(name: str, make: MakeCases) -> None:
    """Nothing is loaded of an empty folder, or of files that were overwritten."""
    modality, held = _made(name, make)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        refused(lambda: modality.load(folder), (StudyError, ValueError), "an empty folder")
        modality.save(held, folder)
        for path in folder.iterdir():
            path.write_bytes(b"x")
        refused(lambda: modality.load(folder), (StudyError, ValueError), "a folder of damaged files")


@MODALITY.law
def digests_name_the_content(name: str, make: MakeCases) -> None:
    """Different cases have different digests, the same case always the same."""
    modality, held = _made(name, make)
    digests = modality.digests(held)
    require(len(set(digests)) == CASES, f"{CASES} different cases have {len(set(digests))} digests")
    rows = np.array([3, 3, 20, 1])
    selected = modality.digests(modality.select(held, rows))
    require(selected == [digests[row] for row in rows], "digests do not follow selected cases")
    require(modality.digests(_made(name, make)[1]) == digests, "the same cases have other digests")
    require(not set(modality.digests(_made(name, make, 1)[1])) & set(digests), "other cases have the same digests")


@MODALITY.law
def selected_cases_are_those_that_are_taken(name: str, make: MakeCases) -> None:
    """`select` and then `take` gives what `take` gives."""
    modality, held = _made(name, make)
    rows = np.array([9, 2, 2, 11])
    selected = modality.source(modality.select(held, rows), CPU).take(np.arange(4))
    same_batch(selected, modality.source(held, CPU).take(rows), "selected cases")


@MODALITY.law
def nothing_but_the_training_rows_is_learned_from(name: str, make: MakeCases) -> None:
    """What is fitted depends on the cases `rows` and on no other."""
    (modality, held), labels, rows = _made(name, make), labels_of(), np.arange(12)
    first = modality.fit(held, rows, labels[rows], {})
    alone = modality.fit(modality.select(held, rows), rows, labels[rows], {})
    require(json.dumps(first.to_dict()) == json.dumps(alone.to_dict()), "cases that are no training rows change it")
    others = modality.select(_made(name, make, 9)[1], np.arange(12, CASES))
    unlike = modality.fit(others, rows, labels[12:], {})
    require(json.dumps(first.to_dict()) != json.dumps(unlike.to_dict()), "other training rows change nothing")


@MODALITY.law
def inputs_have_the_promised_shape_and_are_finite(name: str, make: MakeCases) -> None:
    """Standardised cases are [B, *shape] and finite, and so is what stands for absent ones."""
    modality, held = _made(name, make)
    fitted = modality.fit(held, np.arange(12), labels_of()[:12], {})
    require(fitted.kind == name, f"its preprocessing is of kind {fitted.kind!r}")
    source = modality.source(fitted.check(held), CPU)
    batches = [(fitted.standardise(source.take(rows)), len(rows)) for rows in (np.arange(12, 20), np.array([4]))]
    for batch, count in [*batches, (fitted.blank(3, CPU), 3)]:
        values = batch.features if isinstance(batch, Bag) else batch
        require(len(values) == count, f"{count} cases become {len(values)}")
        shape = tuple(values.shape[-len(fitted.shape) :])
        require(shape == fitted.shape, f"cases have shape {shape}, promised is {fitted.shape}")
        finite(values, "standardised values")


@MODALITY.law
def training_rows_are_standardised(name: str, make: MakeCases) -> None:
    """Standardised training rows have a mean near 0 and a deviation near 1."""
    modality, held = _made(name, make)
    fitted = modality.fit(held, np.arange(CASES), labels_of(), {})
    batch = fitted.standardise(modality.source(fitted.check(held), CPU).take(np.arange(CASES)))
    values = batch.features[batch.there] if isinstance(batch, Bag) else batch
    mean, deviation = values[..., :3].mean().item(), values.std().item()
    require(abs(mean) < 0.3 and 0.5 < deviation < 1.5, f"mean {mean:.3g}, deviation {deviation:.3g}")


@MODALITY.law
def what_was_fitted_comes_back_from_json(name: str, make: MakeCases) -> None:
    """`restore` of `to_dict` standardises to the same bits."""
    modality, held = _made(name, make)
    fitted = modality.fit(held, np.arange(12), labels_of()[:12], {})
    again = modality.restore(json.loads(json.dumps(fitted.to_dict())))
    raw = modality.source(fitted.check(held), CPU).take(np.arange(CASES))
    require(again.shape == fitted.shape, f"shape {fitted.shape} comes back as {again.shape}")
    same_batch(again.standardise(raw), fitted.standardise(raw), "values of a restored preprocessing")


@MODALITY.law
def a_case_does_not_depend_on_its_batch(name: str, make: MakeCases) -> None:
    """A case is standardised the same alone and in a batch."""
    modality, held = _made(name, make)
    fitted = modality.fit(held, np.arange(12), labels_of()[:12], {})
    source = modality.source(fitted.check(held), CPU)
    together, alone = (fitted.standardise(source.take(rows)) for rows in (np.arange(6), np.array([3])))
    one, other = (
        batch.features[at][batch.there[at]] if isinstance(batch, Bag) else batch[at]
        for batch, at in ((together, 3), (alone, 0))
    )
    alike(one, other, "a case in a batch and alone", atol=1e-6)


@MODALITY.law
def an_unknown_option_is_refused(name: str, make: MakeCases) -> None:
    """A misspelt option is an error: see `refuse_options`."""
    modality = MODALITIES.build(name)
    refused(lambda: modality.check_options({"no_such_option": True}), ConfigError, "an unknown option")


@MODALITY.law
def a_baseline_gets_plain_numbers(name: str, make: MakeCases) -> None:
    """`summary` is [n, F], and some column of it is finite."""
    modality, held = _made(name, make)
    summary = modality.summary(held, np.array([3, 7]))
    require(summary.ndim == 2 and len(summary) == 2, f"two cases have a summary of shape {summary.shape}")
    require(np.isfinite(summary).all(axis=0).any(), "no column of the summary is finite")
