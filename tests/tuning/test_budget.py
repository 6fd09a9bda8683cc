"""A search ends when its budget is spent, with the same count after a resume as without one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotune.errors import ConfigError
from histotune.tuning.budget import STARTUP, Budget, Ledger
from histotune.tuning.samplers import build_sampler

Events = st.lists(st.tuples(st.integers(1, 9), st.one_of(st.none(), st.floats(0, 1))), max_size=40)


@given(Events, st.integers(1, 8))
def test_patience_is_what_its_rule_says(events: list[tuple[int, float | None]], patience: int) -> None:
    spent = Ledger()
    for number, (epochs, score) in enumerate(events):
        spent.end(number, epochs, score)
    scores = [-math.inf if score is None else score for _, score in events]
    before, last = scores[:-patience], scores[-patience:]
    best = max(before, default=-math.inf)
    stale = len(scores) >= patience + STARTUP and all(score <= best for score in last)
    assert Budget(patience=patience).stale(spent) == stale
    assert spent.trained == sum(epochs for epochs, _ in events)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9))))
def test_an_epoch_counts_once(reports: list[tuple[int, int]]) -> None:
    spent = Ledger()
    for number, epoch in reports:
        spent.train(number, epoch)
    assert spent.trained == sum(max((e for n, e in reports if n == number), default=0) for number in range(4))


def test_the_start_up_is_the_samplers() -> None:
    assert vars(build_sampler("tpe", 0))["_n_startup_trials"] == STARTUP


@pytest.mark.parametrize("wrong", [{"epochs_total": 0}, {"patience": 0}, {"patience": -3, "trials": 5}])
def test_impossible_budgets_are_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"(epochs_total|patience) must be at least 1, got"):
        Budget.of(**wrong)
