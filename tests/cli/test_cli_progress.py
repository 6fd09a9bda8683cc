"""What is shown while histotune works: every stage once, the best so far, and nothing that was not measured."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from histotune.cli.progress import LiveDisplay, PlainDisplay, describe
from histotune.core.config import TrialConfig
from histotune.storage.records import TrialEnd, TrialRecord
from histotune.storage.study_folder import StudyFolder
from histotune.tuning.budget import Budget, Ledger


def screen(display: PlainDisplay) -> str:
    """Return all that a display wrote, as text."""
    file = display.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=False)


def record(store: StudyFolder, number: int, value: float, state: TrialEnd = TrialEnd.COMPLETE) -> TrialRecord:
    return TrialRecord(number, state, store.trial_folder(number), metrics={"balanced_accuracy": value}, epochs=3)


def test_a_stage_is_one_line_however_often_it_is_heard(console: Console) -> None:
    display = LiveDisplay(console)
    for done in range(4):
        display.progress("preparing idc", done, 3)
    assert display.bar is not None
    assert [task.description for task in display.bar.tasks] == ["preparing idc"]
    display.close()


def test_plain_lines_say_the_best_so_far(console: Console, small_study: StudyFolder) -> None:
    display = PlainDisplay(console)
    ledger = Ledger()
    display.began(small_study, Budget(3, epochs=90, patience=2), ledger)
    for number, value in enumerate((0.7, 0.9, 0.8)):
        ledger.end(number, 3, value)
        display.ended(record(small_study, number, value))
    lines = screen(display).splitlines()
    assert lines[0].startswith("[1/3 trials, 3/90 epochs, 0/2 trials without a better one] trial 0: 0.7000")
    assert lines[2].startswith("[3/3 trials, 9/90 epochs, 1/2 trials without a better one]")
    assert lines[1].endswith("best 0.9000 (trial 1)")
    assert lines[2].endswith("best 0.9000 (trial 1)")


def test_a_stopped_trial_is_never_the_best(console: Console, small_study: StudyFolder) -> None:
    display = PlainDisplay(console)
    display.began(small_study, Budget(2), Ledger())
    display.ended(record(small_study, 0, 0.99, state=TrialEnd.STOPPED))
    assert "none complete" in screen(display)


@pytest.mark.parametrize("kind", [PlainDisplay, LiveDisplay])
def test_who_takes_a_search_over_goes_on_counting(
    console: Console, trained_study: StudyFolder, kind: type[PlainDisplay]
) -> None:
    display = kind(console)
    display.began(trained_study, Budget(5), Ledger(ended=2))
    display.began(trained_study, Budget(5), Ledger(ended=3))
    assert display._spent() == "3/5 trials"
    if isinstance(display, LiveDisplay):
        assert len(display.complete) == len(trained_study.trials())
    display.close()


def test_a_running_trial_shows_no_figure_before_its_first_epoch(console: Console, small_study: StudyFolder) -> None:
    display = LiveDisplay(console)
    display.began(small_study, Budget(2), Ledger())
    display.started(0, TrialConfig().to_dict())
    console.print(display._screen())
    display.reported(0, 1, {"balanced_accuracy": 0.625})
    console.print(display._screen())
    display.close()
    assert "nan" not in screen(display)
    assert "0.6250" in screen(display)
    assert describe(TrialConfig().to_dict()) in screen(display)
