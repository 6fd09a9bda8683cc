"""A search that is killed goes on: real processes, a real Ray, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from changed_studies import reread
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from histotune.core import files
from histotune.data.cohort import Cohort
from histotune.metrics.pareto import front
from histotune.storage.records import Parent, read_parent
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.study import Study
from histotune.tracking import client as _mlflow
from histotune.tuning.journal import DEATHS, PARENT, RECORD, Journal
from histotune.tuning.ray_cluster import _folder, _mark, _marked, kill_leftovers

SCRIPT = Path(__file__).parents[1] / "support" / "search_process.py"
EPOCHS = 6
PROMPT = 30  # seconds; one or two where nothing else runs, and no measurement of speed
SPACE = f"""
dataset: synthetic
epochs: {EPOCHS}
batch_size: 8
loss: {{choice: {{cross_entropy: {{}}, focal: {{gamma: {{low: 0.5, high: 5.0}}}}}}}}
optimizer: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}}}
"""


class Process:
    """A process in a group of its own, whose lines are read as they come."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment, **options
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

    def finish(self) -> None:
        rest, _ = self.process.communicate(timeout=600)
        self.lines += rest.splitlines()
        assert self.process.returncode == 0, self.lines

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Search(Process):
    """A search of a study that exists, by `search_process.py`."""

    def __init__(self, store: StudyFolder, cohort: Cohort, space: Path, trials: int, scheduler: str) -> None:
        arguments = (store.folder, cohort.folder, space, trials, scheduler)
        super().__init__([sys.executable, str(SCRIPT), *map(str, arguments)])

    def interrupt(self, number: int) -> float:
        """Send a signal to the driver and return the seconds until it has ended."""
        began = time.monotonic()
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=60)
        self.lines += rest.splitlines()
        return time.monotonic() - began

    def epochs(self) -> list[tuple[int, int]]:
        """Return (trial, epoch) of every report, in order."""
        result = (re.search(r"reported (\d+) (\d+)", line) for line in self.lines)
        return [(int(m[1]), int(m[2])) for m in result if m]


@pytest.fixture
def search(small_study: StudyFolder, small_cohort: Cohort, tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Factory of searches of one study; what still runs in the end is killed."""
    space, searches = tmp_path / "tiny.yaml", list[Search]()
    space.write_text(SPACE)

    def begin(trials: int, scheduler: str = "asha") -> Search:
        searches.append(Search(small_study, small_cohort, space, trials, scheduler))
        return searches[-1]

    yield begin
    for one in searches:
        one.close()
    kill_leftovers(_mark(small_study.folder))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    """Factory of `histotune ARGUMENTS` in a folder of its own, in which `small.yaml` names a space."""
    monkeypatch.setenv("HISTOTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(SPACE + "options: {cases: 240, patients: 24, side: 32}\n")
    begun = list[Process]()

    def begin(*arguments: object) -> Process:
        code = [sys.executable, "-c", "from histotune.cli.app import main; main()", *map(str, arguments)]
        begun.append(Process(code, stderr=subprocess.STDOUT, cwd=tmp_path))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()
    for study in (tmp_path / "runs").glob("*/study.json"):
        kill_leftovers(_mark(study.parent))


def check_whole(store: StudyFolder, trials: int) -> None:
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
    assert not _marked(_mark(store.folder))
    assert not _folder(_mark(store.folder)).exists()


def test_a_search_survives_kill_interrupt_and_a_dead_worker(
    search: Callable[[int], Search], small_study: StudyFolder
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
    assert interrupted.interrupt(signal.SIGINT) < PROMPT
    assert "summary interrupted" in interrupted.lines[-1]
    assert not _marked(_mark(small_study.folder)), "processes are left behind"

    last = search(6)
    last.until(r"reported \d+ 2")
    workers = workers_of(small_study)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    last.finish()
    check_whole(small_study, 6)
    assert all(small_study.trials()[number].metrics == metrics for number, metrics in finished.items())
    deaths = [t.user_attrs.get(DEATHS, 0) for t in Journal(small_study.journal, "small", maximize=True).trials()]
    assert sum(deaths) <= len(workers), "the death of a worker that is only on its way to a trial is not the trial's"


@pytest.mark.slow
def test_ten_kills_of_a_search_of_thirty_trials(search: Callable[[int], Search], small_study: StudyFolder) -> None:
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
def test_kills_of_a_population_lose_no_descendant(search: Callable[..., Search], small_study: StudyFolder) -> None:
    text = json.loads((small_study.folder / "study.json").read_text())
    files.write_json(small_study.folder / "study.json", text | {"metric": "auroc"})  # it differs after an epoch
    reread(small_study)
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
def test_sigterm_ends_like_ctrl_c(search: Callable[[int], Search], small_study: StudyFolder) -> None:
    one = search(4)
    one.until(r"reported \d+ 2")
    assert one.interrupt(signal.SIGTERM) < PROMPT
    assert "summary interrupted" in one.lines[-1]
    again = search(4)
    again.finish()
    check_whole(small_study, 4)


@pytest.mark.slow
def test_a_second_search_of_the_same_study_is_refused(
    search: Callable[[int], Search], small_study: StudyFolder
) -> None:
    first = search(4)
    first.until("reported")
    second = search(4)
    second.process.wait(timeout=120)
    assert second.process.returncode != 0
    first.finish()
    check_whole(small_study, 4)


@pytest.mark.slow
def test_a_checkpoint_cut_short_costs_its_trial_only_time(
    search: Callable[[int], Search], small_study: StudyFolder
) -> None:
    one = search(3)
    one.until(r"reported \d+ 3")
    one.kill()
    kill_leftovers(_mark(small_study.folder))  # a worker that lives a moment longer would write its checkpoint again
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


# The command itself, in processes of their own


def check_mirror(store: StudyFolder) -> None:
    """MLflow has one run for every trial, and none that pretends to be running."""
    client = _mlflow.api().MlflowClient(_mlflow.database_uri(store.folder.parent))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    result = client.search_runs(experiments, run_view_type=_mlflow.api().entities.ViewType.ALL, max_results=1000)
    keys = sorted(run.data.tags["key"] for run in result if run.data.tags["kind"] == "trial")
    assert keys == sorted(f"trial/{record.number}" for record in store.trials())
    assert "RUNNING" not in {run.info.status for run in result}


@pytest.mark.slow
def test_of_two_that_join_a_search_one_takes_over_and_the_other_looks_on(
    command: Callable[..., Process], tmp_path: Path
) -> None:
    search = ("search", "small.yaml", "--trials", 8, "--fix", "batch_size=2")  # longer, so that two more can come
    store = StudyFolder(tmp_path / "runs" / "small")
    first = command(*search)
    first.until(r"trial \d+: ")
    joined = [command(*search, "--join") for _ in range(2)]
    for one in joined:
        one.until(f"looking on, .* process {first.process.pid} ")
        one.until(r"\[\d/8 trials\] trial \d+: ")
    first.kill()
    assert len(store.trials()) < 8, "it was done before it was killed"
    for one in joined:
        one.finish()
    check_whole(store, 8)
    check_mirror(store)
    for one in joined:
        assert any("[8/8 trials] trial" in line for line in one.lines), one.lines
        assert any("ranked by balanced_accuracy" in line for line in one.lines)
    assert sum("at once on" in line for one in joined for line in one.lines) == 1, "both searched"


@pytest.mark.slow
def test_who_joins_ends_when_the_search_does(command: Callable[..., Process], tmp_path: Path) -> None:
    search = ("search", "small.yaml", "--trials", 6, "--fix", "batch_size=2")
    first = command(*search)
    first.until("at once on")
    second = command(*search, "--join")
    second.until(f"looking on, .* process {first.process.pid} ")
    first.finish()
    second.finish()
    check_whole(StudyFolder(tmp_path / "runs" / "small"), 6)
    assert any("[6/6 trials] trial" in line for line in second.lines), second.lines
    assert not any("at once on" in line for line in second.lines), "it searched, too"
    shown = [[line for line in one.lines if "balanced_accuracy" in line] for one in (first, second)]
    assert shown[0] == shown[1] != []


@pytest.mark.slow
def test_several_metrics_survive_a_kill_and_the_front_is_what_the_folders_say(
    command: Callable[..., Process], tmp_path: Path
) -> None:
    metrics, signs = ["balanced_accuracy", "latency_ms"], [1, -1]
    search = ("search", "small.yaml", "--trials", 7, "--metric", metrics[0], "--metric", metrics[1])
    first = command(*search, "--scheduler", "none")
    first.until(r"trial 2: ")
    first.kill()
    store = StudyFolder(tmp_path / "runs" / "small")
    before = {record.number: record.metrics for record in store.trials()}
    assert 3 <= len(before) < 7
    again = command(*search, "--scheduler", "none")
    again.finish()
    check_whole(store, 7)
    check_mirror(store)
    records = store.trials()
    assert all(records[number].metrics == known for number, known in before.items())
    values = np.array([[record.metrics[name] for name in metrics] for record in records])
    on_front = set(np.flatnonzero(front(values, signs)))
    assert set(Study(store).pareto_front()["number"]) == on_front
    study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(store.journal))))
    assert {trial.number for trial in study.best_trials} == on_front
    assert [trial.values for trial in study.get_trials()] == values.tolist()
    assert any("* on the Pareto front with latency_ms" in line for line in again.lines)


def workers_of(store: StudyFolder) -> list[int]:
    """Return the process ids of the workers of a study's search."""
    named = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in _marked(_mark(store.folder))}
    result = [pid for pid, command in named.items() if b"ray::TrialWorker" in command]
    assert result, "no worker runs"
    return result
