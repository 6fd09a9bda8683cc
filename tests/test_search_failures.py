"""What goes wrong inside a trial has a name, costs what it must and nothing else: a real Ray, real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from histotune.cohort import Cohort
from histotune.memory import INFEASIBLE
from histotune.registry import PLUGINS, load_plugins
from histotune.search import Budget, run
from histotune.search.cluster import _mark, _marked
from histotune.search.journal import DEATHS, Journal
from histotune.search.sampler import Proposer
from histotune.space import read_space
from histotune.store import COMPLETE, FAILED, StudyStore

SPACE = {"dataset": "synthetic", "epochs": 3, "batch_size": 16}

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
            "from histotune.losses import LOSSES, LinearObjective\n"
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


def test_a_trial_that_hangs_is_killed_and_after_three_times_it_is_a_result(
    small_study: StudyStore, small_cohort: Cohort, plugin: Plugin
) -> None:
    hangs = plugin("hangs", "time.sleep(10_000)")
    space = read_space(SPACE | {"loss": {"choice": ["cross_entropy", "hangs"]}}, "hanging")
    summary = run(small_study, space, {32: small_cohort.folder}, Budget(2), plugins=[hangs], trial_timeout=6.0)
    states = {record.config()["loss"]["name"]: record for record in small_study.trials()}
    assert states["cross_entropy"].state == COMPLETE
    assert (states["hangs"].state, states["hangs"].kind) == (FAILED, "hung")
    assert "no epoch for 6 s" in states["hangs"].reason
    assert "3 times" in states["hangs"].reason
    assert (summary.ended, summary.failed) == (2, 1)
    trials = Journal(small_study.journal, "small", maximize=True).trials()
    assert {trial.user_attrs.get(DEATHS, 0) for trial in trials} == {0, 3}
    assert not _marked(_mark(small_study))


def test_a_trial_that_runs_out_of_memory_goes_on_in_smaller_pieces(
    small_study: StudyStore, small_cohort: Cohort, plugin: Plugin
) -> None:
    """The kernel's limit of address space stands 200 MB above what the worker has; a case takes 60 or 400 MB."""
    limited = (
        "space = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "if not hasattr(torch, 'limited'):\n"
        "    torch.limited = space + 200 * 2**20\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (torch.limited, resource.RLIM_INFINITY))\n"
        "held = torch.empty(len(labels) * {} * 2**20, dtype=torch.uint8)\n"
    )
    folders = [plugin("hungry", limited.format(60)), plugin("greedy", limited.format(400))]
    space = read_space(SPACE | {"loss": {"choice": ["hungry", "greedy"]}}, "memory")
    summary = run(small_study, space, {32: small_cohort.folder}, Budget(2), plugins=folders)
    states = {record.config()["loss"]["name"]: record for record in small_study.trials()}
    assert states["hungry"].state == COMPLETE, states["hungry"].reason
    assert json.loads((states["hungry"].folder / "environment.json").read_text())["micro_batch"] == 2
    assert (states["greedy"].state, states["greedy"].kind) == (FAILED, INFEASIBLE)
    assert "out of memory with" in states["greedy"].reason
    assert (summary.complete, summary.failed) == (1, 1)
    trials = Journal(small_study.journal, "small", maximize=True).trials()
    assert {trial.user_attrs.get(DEATHS, 0) for trial in trials} == {0}
    seen = Proposer(space, "tpe", seed=0, maximize=True, history=trials)._seen.get_trials()
    assert [trial.constraints for trial in seen if trial.state == TrialState.PRUNED] == [{"memory": 1.0}]
