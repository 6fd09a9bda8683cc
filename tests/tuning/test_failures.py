"""What goes wrong inside a trial has a name, costs what it must and nothing else: a real Ray, real processes."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from histotune.core.config import TrialConfig
from histotune.core.registry import PLUGINS, load_plugins
from histotune.data.cohort import Cohort
from histotune.data.splits import TrainingData
from histotune.errors import HistotuneError, StudyError
from histotune.space import read_space
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import COMPLETE, FAILED, StudyFolder
from histotune.training import memory
from histotune.training.loop import run_trial
from histotune.training.memory import INFEASIBLE
from histotune.tuning.budget import Budget
from histotune.tuning.events import Resources, SearchSummary
from histotune.tuning.follower import SETTLED, follow
from histotune.tuning.journal import DEATHS, Journal
from histotune.tuning.options import Callbacks, Cluster, Sampling
from histotune.tuning.proposer import Proposer
from histotune.tuning.ray_cluster import _mark, _marked
from histotune.tuning.run import run

SPACE = {"dataset": "synthetic", "epochs": 3, "batch_size": 16}
RATE = {"optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}}

Plugin = Callable[[str, str], Path]


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """Factory of a folder with one loss: its name, and what its `loss(self, features, labels)` does first."""

    def write(name: str, body: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        code = "\n".join(f"        {line}" for line in body.splitlines())
        (folder / f"{name}.py").write_text(
            "import os, pathlib, time, resource\n"
            "import torch\n"
            "from histotune.models.losses import LOSSES, LinearObjective\n"
            "from torch.nn import functional\n\n\n"
            "class Made(LinearObjective):\n"
            "    def loss(self, features, labels):\n"
            f"{code}\n"
            "        return functional.cross_entropy(self.scores(features), labels)\n\n\n"
            f"@LOSSES.register({name!r})\n"
            "def made(given):\n"
            "    '''Cross-entropy after something went wrong.'''\n"
            "    return Made(given)\n"
        )
        load_plugins(folder)
        PLUGINS.remove(folder)
        return folder

    return write


class Deaf:
    """Hears nothing; a listener of a test overrides what it wants to hear."""

    def started(self, number: int, config: Mapping[str, Any]) -> None: ...

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None: ...

    def ended(self, record: TrialRecord) -> None: ...


def micro_batch(folder: Path) -> int:
    """Return the micro-batch that a trial's folder speaks of, 0 where it says nothing."""
    path = folder / "environment.json"
    return int(json.loads(path.read_text())["micro_batch"]) if path.exists() else 0


@pytest.mark.slow
def test_a_trial_that_hangs_is_killed_and_after_three_times_it_is_a_result(
    small_study: StudyFolder, small_cohort: Cohort, plugin: Plugin
) -> None:
    hangs = plugin("hangs", "time.sleep(10_000)")
    space = read_space(SPACE | {"loss": {"choice": ["cross_entropy", "hangs"]}}, "hanging")
    how, where = Sampling(trial_timeout=12.0), Cluster(plugins=[hangs])
    summary = run(small_study, space, {32: small_cohort.folder}, Budget(2), sampling=how, cluster=where)
    states = {record.config()["loss"]["name"]: record for record in small_study.trials()}
    assert states["cross_entropy"].state == COMPLETE, states["cross_entropy"].reason
    assert (states["hangs"].state, states["hangs"].kind) == (FAILED, "hung")
    assert "no epoch for 12 s" in states["hangs"].reason
    assert "3 times" in states["hangs"].reason
    assert (summary.ended, summary.failed) == (2, 1)
    trials = Journal(small_study.journal, "small", maximize=True).trials()
    assert {trial.user_attrs.get(DEATHS, 0) for trial in trials} == {0, 3}
    assert not _marked(_mark(small_study.folder))


# The kernel's limit of address space stands 200 MB above what the worker has at its first loss.
LIMITED = """
space = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
if not hasattr(torch, 'limited'):
    torch.limited = space + 200 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (torch.limited, resource.RLIM_INFINITY))
"""
TAKES = LIMITED + "held = torch.empty(len(labels) * {} * 2**20, dtype=torch.uint8)"  # so many MB a case


@pytest.mark.parametrize("stored", [False, True], ids=["one folder", "storage"])
def test_a_trial_that_runs_out_of_memory_goes_on_in_smaller_pieces(
    small_study: StudyFolder,
    small_cohort: Cohort,
    plugin: Plugin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: bool,
) -> None:
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "node"))
    storage = f"file://{tmp_path}/bucket" if stored else None
    hungry, greedy = (f"{name}_{'stored' if stored else 'here'}" for name in ("hungry", "greedy"))
    folders = [plugin(hungry, TAKES.format(60)), plugin(greedy, TAKES.format(400))]
    space = read_space(SPACE | {"loss": {"choice": [hungry, greedy]}}, "memory")
    summary = run(
        small_study, space, {32: small_cohort.folder}, Budget(2), cluster=Cluster(storage=storage, plugins=folders)
    )
    states = {record.config()["loss"]["name"]: record for record in small_study.trials()}
    assert states[hungry].state == COMPLETE, states[hungry].reason
    assert micro_batch(states[hungry].folder) == 2
    if stored:
        assert micro_batch(tmp_path / "bucket/small/trials" / states[hungry].folder.name) == 2
    assert (states[greedy].state, states[greedy].kind) == (FAILED, INFEASIBLE)
    assert "out of memory before the first step" in states[greedy].reason
    assert (summary.complete, summary.failed) == (1, 1)
    trials = Journal(small_study.journal, "small", maximize=True).trials()
    assert {trial.user_attrs.get(DEATHS, 0) for trial in trials} == {0}
    seen = Proposer(space, "tpe", seed=0, maximize=True, history=trials)._seen.get_trials()
    assert [trial.constraints for trial in seen if trial.state == TrialState.PRUNED] == [{"memory": 1.0}]


@pytest.mark.parametrize(
    ("cases", "state"), [(0, FAILED), pytest.param(4, COMPLETE, marks=pytest.mark.slow)], ids=["never fits", "fits"]
)
def test_a_worker_that_rays_memory_monitor_kills_costs_its_trial_a_smaller_micro_batch(
    small_study: StudyFolder,
    small_cohort: Cohort,
    plugin: Plugin,
    monkeypatch: pytest.MonkeyPatch,
    cases: int,
    state: str,
) -> None:
    """The threshold stands 3 GB above what is in use; more cases at once than fit take memory until they are killed."""
    takes = f"taken = [torch.ones(2**24) for _ in range(100 * (len(labels) > {cases})) if not time.sleep(0.02)]"
    thirsty = plugin(f"thirsty_{cases}", takes)  # 64 MB each
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {name: int(count) for name, count, *_ in lines}
    used, total = kilobytes["MemTotal:"] - kilobytes["MemAvailable:"], memory.total_memory() / 2**10
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(used + 3 * 2**20) / total:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    space = read_space(SPACE | {"loss": {"choice": ["cross_entropy", thirsty.name]}}, "memory")
    one = Resources(max_concurrent=1)
    summary = run(small_study, space, {32: small_cohort.folder}, Budget(2), one, cluster=Cluster(plugins=[thirsty]))
    states = {record.config()["loss"]["name"]: record for record in small_study.trials()}
    assert (summary.reason, summary.ended, states["cross_entropy"].state) == ("trials", 2, COMPLETE)
    starved = states[thirsty.name]
    assert starved.state == state, starved.reason
    if state == COMPLETE:
        assert micro_batch(starved.folder) == cases
        assert [row["epoch"] for row in starved.curve()] == [1, 2, 3]
    else:
        assert starved.kind == INFEASIBLE
        assert "killed due to the node running low on memory" in starved.reason
    trials = Journal(small_study.journal, "small", maximize=True).trials()
    assert {trial.user_attrs.get(DEATHS, 0) for trial in trials} == {0}


@pytest.mark.slow
def test_through_a_storage_the_smaller_micro_batch_outlives_its_worker(
    small_study: StudyFolder, small_cohort: Cohort, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is killed when it tries 8 cases, for 16 did not fit: the next one begins with 8 and ends with 2."""
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "node"))
    died, stored = tmp_path / "died", tmp_path / "bucket/small/trials/00000"
    dies = (
        f"died = pathlib.Path({str(died)!r})\n"
        "if len(labels) == 8 and not died.exists():\n"
        "    died.touch()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    folder = plugin("dying", dies + TAKES.format(60))
    begins = list[int]()

    class Ears(Deaf):
        def started(self, number: int, config: Mapping[str, Any]) -> None:
            begins.append(micro_batch(stored))

    cluster, callbacks = Cluster(storage=f"file://{tmp_path}/bucket", plugins=[folder]), Callbacks(listeners=[Ears()])
    space = read_space(SPACE | {"loss": "dying"} | RATE, "storage")
    summary = run(small_study, space, {32: small_cohort.folder}, Budget(1), cluster=cluster, callbacks=callbacks)
    assert (summary.complete, summary.notes, begins) == (1, (), [0, 8])
    assert [micro_batch(folder) for folder in (stored, small_study.trial_folder(0))] == [2, 2]
    assert [row["epoch"] for row in small_study.trials()[0].curve()] == [1, 2, 3]


def test_a_clock_that_jumps_changes_nothing(
    small_study: StudyFolder, small_cohort: Cohort, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks of driver and workers jump a day back and ten years forth, in turn, while time limits are set."""
    jumps = [0.0, -86_400.0, 3e8]
    folder = plugin(
        "jumping",
        "time.real, time.calls = getattr(time, 'real', time.time), getattr(time, 'calls', 0) + 1\n"
        f"jump = {jumps}[time.calls // 20 % 3]\n"
        "time.time = lambda: time.real() + jump",
    )
    real, ended = time.time, list[str]()
    monkeypatch.setattr(time, "time", lambda: real() + jumps[len(ended) % 3])

    class Ears(Deaf):
        def ended(self, record: TrialRecord) -> None:
            ended.append(record.state)

    space = read_space(SPACE | {"loss": "jumping"} | RATE, "clock")
    summary = run(
        small_study,
        space,
        {32: small_cohort.folder},
        Budget(4, seconds=1000.0),
        sampling=Sampling(scheduler="none", trial_timeout=300.0),
        cluster=Cluster(plugins=[folder]),
        callbacks=Callbacks(listeners=[Ears()]),
    )
    assert (summary.reason, summary.notes) == ("trials", ())
    assert summary.seconds < 1000
    assert ended == [COMPLETE] * 4
    for record in small_study.trials():
        assert [row["epoch"] for row in record.curve()] == [1, 2, 3]
        assert 0 < record.seconds < 1000
    started = [record.started - real() for record in small_study.trials()]
    assert min(started) < -80_000, "the clock of the workers did not jump"


def test_a_full_disk_stops_the_search_with_one_sentence_and_the_same_command_goes_on(
    small_study: StudyFolder, small_cohort: Cohort, plugin: Plugin, tmp_path: Path
) -> None:
    """The worker may write no file of more than 1000 bytes from its second epoch on, as long as there is a mark."""
    mark = tmp_path / "disk-is-full"
    mark.touch()
    full = plugin(
        "full",
        f"if pathlib.Path({str(mark)!r}).exists() and list(pathlib.Path({str(small_study.folder)!r}).glob("
        "'trials/00001/checkpoint.pt')):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))",
    )
    space = read_space(SPACE | {"loss": "full"} | RATE, "full")

    def search() -> SearchSummary:
        one = Resources(max_concurrent=1)
        how, where = Sampling(scheduler="none"), Cluster(plugins=[full])
        return run(small_study, space, {32: small_cohort.folder}, Budget(3), one, sampling=how, cluster=where)

    first = search()
    assert first.reason == "failures"
    assert re.search(r"cannot write .*00001.*: the disk is full", first.message)
    assert (first.ended, first.failed, first.unfinished) == (1, 0, 1)
    finished = small_study.trials()[0]
    mark.unlink()
    second = search()
    assert (second.reason, second.ended, second.complete) == ("trials", 3, 2)
    assert small_study.trials()[0] == finished
    for record in small_study.trials():
        assert [row["epoch"] for row in record.curve()] == [1, 2, 3]


def test_a_journal_that_cannot_grow_is_mended_at_the_next_start(small_study: StudyFolder) -> None:
    journal = Journal(small_study.journal, "small", maximize=True)
    number = journal.propose({}, {}, {"config": {}, "digest": "0"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = small_study.journal.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(HistotuneError, match=r"cannot write .*journal.log: the disk is full"):
            journal.report(number, 1, 0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(HistotuneError, match="the disk is full"):
        journal.report(number, 2, 0.5)  # would follow on half a line
    assert small_study.journal.read_bytes().startswith(before)
    again = Journal(small_study.journal, "small", maximize=True)
    assert b'"step":' not in small_study.journal.read_bytes()
    again.report(number, 1, 0.25)
    assert again.trials()[number].intermediate_values == {1: 0.25}


def test_who_joins_looks_on_and_takes_over_what_is_left(
    small_study: StudyFolder, small_data: TrainingData, tmp_path: Path
) -> None:
    """A process holds the study, ends a trial, and dies; the one that joined hears of the trial, and goes on."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from histotune.storage.study_folder import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1])).lock('histotune search'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(small_study.folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert re.search(rf"process {holder.pid} on .* \(histotune search\) since 20\d\d-", small_study.holder())
    with pytest.raises(StudyError, match=rf"in use by process {holder.pid} .* since 20"), small_study.lock("another"):
        pass
    observed: list[str] = []

    class Ears:
        def started(self, number: int, config: Mapping[str, Any]) -> None:
            observed.append(f"started {number}")

        def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
            assert "auroc" in metrics
            observed.append(f"epoch {epoch}")

        def ended(self, record: TrialRecord) -> None:
            observed.append(record.state)

    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            run_trial(TrialConfig(epochs=2), small_data, small_study.trial_folder(0))
        if looks == 5:
            holder.kill()
            holder.wait()

    assert follow(small_study, Budget(2), [Ears()], sleep=sleep) > 0
    assert observed == ["started 0", "epoch 1", "epoch 2", COMPLETE]
    assert looks >= 5 + SETTLED - 1, "one that begins lets go of the study in between"
    assert small_study.holder() == ""
    holder.stdout.close()
    assert follow(small_study, Budget(2)) == 0.0, "nobody to look on to"
    with small_study.lock("the next"):
        pass
