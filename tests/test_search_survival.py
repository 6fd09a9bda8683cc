"""A search that is killed goes on: real processes, a real Ray, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from histotune import files
from histotune.cohort import Cohort
from histotune.lineage import Parent, read_parent
from histotune.search.cluster import _folder, _mark, _marked
from histotune.search.journal import DEATHS, PARENT, RECORD, Journal
from histotune.store import COMPLETE, STOPPED, StudyStore

SCRIPT = Path(__file__).parent / "search_process.py"
EPOCHS = 6
SPACE = f"""
dataset: synthetic
epochs: {EPOCHS}
batch_size: 8
loss: {{choice: {{cross_entropy: {{}}, focal: {{gamma: {{low: 0.5, high: 5.0}}}}}}}}
optimizer: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}}}
"""


class Search:
    """A search in a process group of its own."""

    def __init__(self, store: StudyStore, cohort: Cohort, space: Path, trials: int, scheduler: str) -> None:
        command = [sys.executable, str(SCRIPT), *map(str, (store.folder, cohort.folder, space, trials, scheduler))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
        )
        self.lines: list[str] = []

    def until(self, pattern: str) -> str:
        """Read on until a line matches, or fail with what was said."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if re.search(pattern, line):
                return line
        raise AssertionError(f"the search ended before {pattern!r}: {self.lines}")

    def kill(self) -> None:
        """Kill the driver and its process group, as a machine that runs out of memory would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def interrupt(self, number: int) -> float:
        """Send a signal to the driver and return the seconds until it has ended."""
        began = time.monotonic()
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=60)
        self.lines += rest.splitlines()
        return time.monotonic() - began

    def finish(self) -> None:
        rest, _ = self.process.communicate(timeout=600)
        self.lines += rest.splitlines()
        assert self.process.returncode == 0, self.lines

    def epochs(self) -> list[tuple[int, int]]:
        """Return (trial, epoch) of every report, in order."""
        found = (re.search(r"reported (\d+) (\d+)", line) for line in self.lines)
        return [(int(m[1]), int(m[2])) for m in found if m]


@pytest.fixture
def search(small_study: StudyStore, small_cohort: Cohort, tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Factory of searches of one study; what still runs in the end is killed."""
    space, searches = tmp_path / "tiny.yaml", list[Search]()
    space.write_text(SPACE)

    def begin(trials: int, scheduler: str = "asha") -> Search:
        searches.append(Search(small_study, small_cohort, space, trials, scheduler))
        return searches[-1]

    yield begin
    for one in searches:
        if one.process.poll() is None:
            one.kill()
        if one.process.stdout is not None:
            one.process.stdout.close()
    for process in _marked(_mark(small_study)):
        os.kill(process, signal.SIGKILL)


def check_whole(store: StudyStore, trials: int) -> None:
    """Every trial ended once, journal and folders agree, and nothing is left of any process."""
    records = store.trials()
    assert [record.number for record in records] == list(range(trials))
    assert {record.state for record in records} <= {COMPLETE, STOPPED}
    for record in records:
        assert [row["epoch"] for row in record.curve()] == list(range(1, record.epochs + 1))
        assert record.state == STOPPED or record.epochs == EPOCHS
    journal = Journal(store.journal, store.folder.name, maximize=True).trials()
    assert [trial.user_attrs[RECORD]["state"] for trial in journal] == [record.state for record in records]
    assert len({trial.user_attrs["digest"] for trial in journal}) == trials
    assert not _marked(_mark(store))
    assert not _folder(_mark(store)).exists()


def test_a_search_survives_kill_interrupt_and_a_dead_worker(
    search: Callable[[int], Search], small_study: StudyStore
) -> None:
    killed = search(6)
    killed.until(r"reported \d+ 3")
    killed.kill()
    finished = {record.number: record.metrics for record in small_study.trials()}

    interrupted = search(6)
    interrupted.until(r"reported \d+ 5")
    went_on = dict(reversed(interrupted.epochs()))
    assert went_on, interrupted.lines
    assert all(went_on[n] > 1 for n, epoch in killed.epochs() if epoch > 1 and n in went_on), "trained from the start"
    assert interrupted.interrupt(signal.SIGINT) < 5
    assert "summary interrupted" in interrupted.lines[-1]
    assert not _marked(_mark(small_study)), "processes are left behind"

    last = search(6)
    last.until(r"reported \d+ 2")
    os.kill(worker_of(small_study), signal.SIGKILL)
    last.finish()
    check_whole(small_study, 6)
    assert all(small_study.trials()[number].metrics == metrics for number, metrics in finished.items())
    deaths = [t.user_attrs.get(DEATHS, 0) for t in Journal(small_study.journal, "small", maximize=True).trials()]
    assert sum(deaths) == 1


@pytest.mark.slow
def test_ten_kills_of_a_search_of_thirty_trials(search: Callable[[int], Search], small_study: StudyStore) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        one = search(30)
        one.until("started")
        for _ in range(int(rng.integers(0, 8))):  # not by the clock: a fast machine would be done before the last kill
            one.until("reported")
        time.sleep(float(rng.uniform(0.0, 1.0)))
        one.kill()
    last = search(30)
    last.finish()
    check_whole(small_study, 30)


@pytest.mark.slow
def test_kills_of_a_population_lose_no_descendant(search: Callable[..., Search], small_study: StudyStore) -> None:
    told = json.loads((small_study.folder / "study.json").read_text())
    files.write_json(small_study.folder / "study.json", told | {"metric": "auroc"})  # it differs after an epoch
    rng = np.random.default_rng(1)
    for _ in range(5):
        one = search(40, "pbt")
        one.until("started")
        for _ in range(int(rng.integers(0, 9))):
            one.until("reported")
        time.sleep(float(rng.uniform(0.0, 1.0)))
        one.kill()
    search(40, "pbt").finish()
    records = small_study.trials()
    assert [record.number for record in records] == list(range(40))
    assert {record.state for record in records} <= {COMPLETE, STOPPED}
    journal = Journal(small_study.journal, "small", maximize=True).trials()
    born = [trial for trial in journal if PARENT in trial.user_attrs]
    stopped = sum(record.state == STOPPED for record in records)
    assert stopped - 2 <= len(born) <= stopped, "but those that the budget left no place for"
    assert born
    for trial in born:
        parent, folder = Parent(*trial.user_attrs[PARENT]), small_study.trial_folder(trial.number)
        assert read_parent(folder) == parent
        own, theirs = records[trial.number].curve(), records[parent.number].curve()
        assert own[: parent.epoch] == theirs[: parent.epoch]
        assert [row["epoch"] for row in own] == list(range(1, len(own) + 1))
    assert not list(small_study.folder.glob("trials/*/checkpoint*.pt"))


@pytest.mark.slow
def test_sigterm_ends_like_ctrl_c(search: Callable[[int], Search], small_study: StudyStore) -> None:
    one = search(4)
    one.until(r"reported \d+ 2")
    assert one.interrupt(signal.SIGTERM) < 5
    assert "summary interrupted" in one.lines[-1]
    again = search(4)
    again.finish()
    check_whole(small_study, 4)


@pytest.mark.slow
def test_a_second_search_of_the_same_study_is_refused(search: Callable[[int], Search], small_study: StudyStore) -> None:
    first = search(4)
    first.until("reported")
    second = search(4)
    second.process.wait(timeout=120)
    assert second.process.returncode != 0
    first.finish()
    check_whole(small_study, 4)


@pytest.mark.slow
def test_a_checkpoint_cut_short_costs_its_trial_only_time(
    search: Callable[[int], Search], small_study: StudyStore
) -> None:
    one = search(3)
    one.until(r"reported \d+ 3")
    one.kill()
    begun = [folder for folder in small_study.folder.glob("trials/*") if not (folder / "metrics.json").exists()]
    assert begun
    for folder in begun:
        (folder / "checkpoint.pt").write_bytes(b"PK\x03\x04" + bytes(1000))
    again = search(3)
    again.finish()
    check_whole(small_study, 3)
    notes = [line for line in again.lines if "began anew" in line]
    assert notes
    assert len(set(notes)) == len(notes), "said more than once"


def worker_of(store: StudyStore) -> int:
    """Return the process id of a worker that trains for the study."""
    for process in _marked(_mark(store)):
        if b"ray::TrialWorker" in Path(f"/proc/{process}/cmdline").read_bytes():
            return process
    raise AssertionError("no worker runs")
