"""A search on a Ray cluster that runs already: joined, never stopped; results travel; a node may die."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from histotune.api import search
from histotune.core import files
from histotune.core.registry import load_plugins
from histotune.core.runtime import share_gpu
from histotune.data.cohort import Cohort
from histotune.errors import ConfigError, StudyError, TrialFailed
from histotune.space import read_space
from histotune.storage.layout import ENVIRONMENT, KEPT_CHECKPOINTS, STOP, kept_checkpoint
from histotune.storage.records import Parent, TrialRecord, read_parent, read_record
from histotune.storage.study_folder import COMPLETE, FAILED, StudyFolder
from histotune.training import memory
from histotune.training.checkpoint import Checkpoint, TrainingProgress
from histotune.tuning import ray_pool as pool
from histotune.tuning.budget import Budget
from histotune.tuning.events import Resources
from histotune.tuning.options import Callbacks, Cluster, Sampling
from histotune.tuning.ray_cluster import _mark, _marked
from histotune.tuning.ray_tune import TrialSync
from histotune.tuning.remote_storage import RemoteStorage
from histotune.tuning.run import run
from histotune.tuning.trial_workspace import TrialWorkspace

TOKEN = "a-token-of-thirty-two-characters-"
SPACE = {
    "dataset": "synthetic",
    "epochs": 3,
    "batch_size": 32,
    "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of one node with one CPU, which asks for a token; `add_node(num_cpus=1)` adds another."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("HISTOTUNE_CACHE", str(tmp_path_factory.mktemp("node")))
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
        result = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20},
        )
        yield result
        result.shutdown()
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


class Killer:
    """Kills a node of the cluster when some trials have ended."""

    def __init__(self, kill: Callable[[], None], after: int) -> None:
        self._kill, self._after, self.ends = kill, after, 0

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        pass

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        pass

    def ended(self, record: TrialRecord) -> None:
        self.ends += 1
        if self.ends == self._after:
            self._kill()


def test_a_search_joins_a_cluster_and_leaves_it_running(
    small_study: StudyFolder, small_cohort: Cohort, cluster: Any, tmp_path: Path
) -> None:
    import ray

    share = ray.remote(pool.share)
    where = Cluster(cluster.address, f"file://{tmp_path}/bucket")
    with pytest.raises(ConfigError, match="cluster's 1 nodes have 1 CPUs"):
        run(small_study, read_space(SPACE, "s"), {32: small_cohort.folder}, Budget(2), Resources(64), cluster=where)
    summary = run(small_study, read_space(SPACE, "s"), {32: small_cohort.folder}, Budget(2), cluster=where)
    assert (summary.ended, summary.failed, summary.reason) == (2, 0, "trials")
    records = small_study.trials()
    assert [record.state for record in records] == [COMPLETE, COMPLETE]
    assert len(records[0].predictions().ids) == len(records[1].predictions().ids) > 0
    assert not _marked(_mark(small_study.folder))
    stored = tmp_path / "bucket" / "small"
    assert read_record(stored / "trials" / "00001") is not None
    assert not list(stored.rglob("*sealed*")), "what lies under the seal stays here"
    held = {path.name for path in (stored / "cohorts").glob("*/*")}
    assert held == {"table.csv", "present.csv", "modalities", "cohort.json"}
    ray.init(address=cluster.address)
    assert ray.cluster_resources()["CPU"] == 1
    shares = [share.remote(0.0, cpus, n) for cpus, n in ((1.0, 8), (0.25, 8), (0.25, 2))]
    assert ray.get(shares) == [1.0, 0.25, 0.5], "a trial's share of its node, however many run on others"
    ray.shutdown()


def squared(number: int, share: float) -> tuple[int, float]:
    """Do a job, and tell its share of the node's memory."""
    return number**2, share


def test_jobs_are_done_on_a_cluster_that_is_left_running(cluster: Any, tmp_path: Path) -> None:
    import ray

    with pool.workers(tmp_path, Resources(0.5), address=cluster.address, plugins=[]) as there:
        assert there.at_once == 2
        result = [answer for _, answer in there.run(squared, ({"number": number} for number in range(4)))]
    assert sorted(result) == [(number**2, 0.5) for number in range(4)]
    assert not _marked(_mark(tmp_path))
    ray.init(address=cluster.address)
    assert ray.cluster_resources()["CPU"] == 1
    ray.shutdown()


@pytest.mark.parametrize(("gpus", "expected"), [(0.25, 0.25), (1.0, 1.0), (2.0, 1.0)])
def test_a_share_of_a_gpu_is_what_was_asked(gpus: float, expected: float) -> None:
    assert pool.share(gpus, 1.0, 3) == expected


def test_what_the_driver_decides_on_a_trial_reaches_the_next_node(small_study: StudyFolder, tmp_path: Path) -> None:
    remote, first, second = (
        RemoteStorage.of(f"file://{tmp_path}/bucket", small_study),
        tmp_path / "a/00007",
        tmp_path / "b/00007",
    )
    sync, ours = TrialSync(small_study, remote), small_study.trial_folder(7)
    sync.fetch(7)
    assert not sync.knows(7), "it died before its node could say"
    files.write_json(first / ENVIRONMENT, {"micro_batch": 32, "least_micro_batch": 1})
    remote.push(first, {})
    sync.fetch(7)
    assert sync.knows(7)
    assert memory.verdict(ours, TrialFailed(memory.OUT_OF_MEMORY, "killed")) is None
    sync.send(7, STOP, ENVIRONMENT)
    remote.pull(second)
    assert json.loads((second / ENVIRONMENT).read_text()) == {"micro_batch": 16, "least_micro_batch": 1}
    assert not (second / STOP).exists()
    files.write_text(ours / STOP, "after epoch 2\n")
    sync.send(7, STOP)
    assert remote.has(second, STOP)


def test_a_descendant_finds_its_parent_in_the_storage(small_study: StudyFolder, tmp_path: Path) -> None:
    remote, there = RemoteStorage.of(f"file://{tmp_path}/bucket", small_study), tmp_path / "a/00003"
    progress = TrainingProgress("parent", 1.0, curve=[{"epoch": 1}, {"epoch": 2}], best_epoch=1, best_value=0.5)
    Checkpoint(there).keep(progress)
    remote.push(there, {})
    remote.pull(small_study.trial_folder(3))
    assert not small_study.trial_folder(3).exists(), "kept checkpoints do not travel with every look"
    workspace = TrialWorkspace({"study": str(small_study.folder), "number": 9, "remote": remote.uri}, {})
    workspace.inherit(Parent(3, 2), "child")
    result = Checkpoint(workspace.folder).load()
    assert result is not None
    assert (result.digest, result.inherited, result.epoch, result.best_epoch) == ("child", 2, 2, 1)
    assert read_parent(workspace.folder) == Parent(3, 2)
    with pytest.raises(TrialFailed, match="checkpoint of trial 4 after epoch 2 is gone"):
        TrialWorkspace({"study": str(small_study.folder), "number": 10, "remote": remote.uri}, {}).inherit(
            Parent(4, 2), "child"
        )
    assert remote.find(f"trials/*/{KEPT_CHECKPOINTS}") == [Path("trials/00003") / kept_checkpoint(2)]
    remote.remove(there, kept_checkpoint(2))
    assert not remote.has(there, kept_checkpoint(2))


@pytest.mark.slow
def test_a_population_trains_through_a_storage(
    small_study: StudyFolder, small_cohort: Cohort, cluster: Any, tmp_path: Path
) -> None:
    text = json.loads((small_study.folder / "study.json").read_text())
    files.write_json(small_study.folder / "study.json", text | {"metric": "auroc"})  # it differs after an epoch
    small_study = StudyFolder(small_study.folder)
    where, space = Cluster(cluster.address, f"file://{tmp_path}/bucket"), read_space(SPACE, "s")
    cohorts, how = {32: small_cohort.folder}, Sampling(scheduler="pbt")
    summary = run(small_study, space, cohorts, Budget(20), sampling=how, cluster=where)
    assert (summary.ended, summary.failed) == (20, 0)
    assert [parent for record in small_study.trials() if (parent := read_parent(record.folder))]
    assert not [*tmp_path.glob("bucket/**/checkpoint*"), *small_study.folder.glob("trials/*/checkpoint*")]


@pytest.mark.slow
@pytest.mark.parametrize("storage", [True, False])
def test_a_search_goes_on_when_a_node_dies(
    small_study: StudyFolder, small_cohort: Cohort, cluster: Any, tmp_path: Path, storage: bool
) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    killer = Killer(lambda: cluster.remove_node(second, allow_graceful=False), after=3)
    summary = run(
        small_study,
        read_space(SPACE | {"epochs": 6}, "s"),
        {32: small_cohort.folder},
        Budget(8),
        cluster=Cluster(cluster.address, f"file://{tmp_path}/bucket" if storage else None),
        callbacks=Callbacks(listeners=[killer]),
    )
    assert (summary.reason, summary.ended, summary.notes) == ("trials", 8, ())
    assert [record.number for record in small_study.trials()] == list(range(8))
    assert summary.failed == 0
    assert killer.ends == 8


HANGS = """
import time

from histotune.models.losses import (LOSSES, LinearObjective)


class Hanging(LinearObjective):
    def loss(self, features, labels):
        time.sleep(10_000)


@LOSSES.register('hanging_there')
def hanging(given):
    '''Never come to an end.'''
    return Hanging(given)
"""


@pytest.mark.slow
def test_a_trial_that_hangs_on_another_node_is_killed_there(
    small_study: StudyFolder, small_cohort: Cohort, cluster: Any, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "hanging.py").write_text(HANGS)
    load_plugins(plugins)
    space = read_space(SPACE | {"loss": {"choice": ["cross_entropy", "hanging_there"]}}, "s")
    second = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)  # the only one where two CPUs are
    where, how = Cluster(cluster.address, f"file://{tmp_path}/bucket", [plugins]), Sampling(trial_timeout=12.0)
    resources, cohorts = Resources(2), {32: small_cohort.folder}
    summary = run(small_study, space, cohorts, Budget(2), resources, sampling=how, cluster=where)
    cluster.remove_node(second)
    assert (summary.ended, summary.complete, summary.failed) == (2, 1, 1)
    failed = next(record for record in small_study.trials() if record.state == FAILED)
    assert failed.kind == "hung"
    assert "3 times" in failed.reason
    assert failed.config()["loss"]["name"] == "hanging_there"


def test_where_nothing_answers_the_error_comes_in_seconds(small_study: StudyFolder, small_cohort: Cohort) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    where = Cluster(f"127.0.0.1:{port}")
    with pytest.raises(StudyError, match="no Ray cluster answers"):
        run(small_study, read_space(SPACE, "s"), {32: small_cohort.folder}, Budget(1), cluster=where)
    assert time.monotonic() - began < 10


def test_another_token_is_refused_with_what_to_set(
    small_study: StudyFolder, small_cohort: Cohort, cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-token-of-thirty-two-characters")
    with pytest.raises(StudyError, match="RAY_AUTH_TOKEN"):
        search("demo", runs=tmp_path / "new", cache=tmp_path / "cache", ray_address=cluster.address)
    assert not (tmp_path / "new").exists(), "found before anything is prepared"
    assert not (tmp_path / "cache").exists()
    with pytest.raises(StudyError, match="RAY_AUTH_TOKEN"):
        run(small_study, read_space(SPACE, "s"), {32: small_cohort.folder}, Budget(1), cluster=Cluster(cluster.address))


# Resources and storage, without a cluster


@pytest.mark.parametrize(
    ("resources", "nodes", "at_once"),
    [
        (Resources(1), [(1.0, 0.0), (2.0, 0.0)], 3),
        (Resources(2), [(3.0, 0.0), (3.0, 0.0)], 2),
        (Resources(1, 0.25), [(8.0, 1.0), (8.0, 0.0)], 4),
    ],
)
def test_trials_fit_node_by_node(resources: Resources, nodes: list[tuple[float, float]], at_once: int) -> None:
    assert resources.check(nodes) == at_once


def test_a_trial_that_fits_no_single_node_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 CPUs per trial requested, but the cluster's 2 nodes have 1 \+ 1 CPUs"):
        Resources(2).check([(1, 0), (1, 0)])


def test_a_node_copies_a_cohort_once_and_without_its_labels(
    small_study: StudyFolder, small_cohort: Cohort, tmp_path: Path
) -> None:
    remote = RemoteStorage.of(f"file://{tmp_path}/bucket", small_study)
    remote.offer_cohort(small_cohort.folder)
    elsewhere = tmp_path / "not-on-this-node" / small_cohort.folder.name
    first = remote.cohort(elsewhere, tmp_path / "node")
    written = (first / "modalities/image/images.npy").stat().st_mtime_ns
    assert remote.cohort(elsewhere, tmp_path / "node") == first
    assert (first / "modalities/image/images.npy").stat().st_mtime_ns == written
    held = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()} - {".arriving/cohort.json"}
    assert held == {"table.csv", "present.csv", "modalities/image/images.npy", "cohort.json"}
    assert remote.cohort(small_cohort.folder, tmp_path / "node") == small_cohort.folder


def test_an_unknown_protocol_is_refused(small_study: StudyFolder) -> None:
    with pytest.raises(ConfigError, match="Protocol not known: nowhere"):
        RemoteStorage.of("nowhere://bucket", small_study)


def test_another_study_in_the_storage_is_not_overwritten(small_study: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "bucket" / "small").mkdir(parents=True)
    (tmp_path / "bucket" / "small" / "study.json").write_text("{}")
    with pytest.raises(StudyError, match="another study of this name"):
        RemoteStorage.of(f"file://{tmp_path}/bucket", small_study)


SEES = """
import json, os
from pathlib import Path

from histotune.models.losses import LOSSES


@LOSSES.register('telling')
def telling(given):
    '''Write down which GPU the trial sees.'''
    with Path({place!r}).open('a') as file:
        file.write(json.dumps([os.getpid(), os.environ.get('CUDA_VISIBLE_DEVICES')]) + '\\n')
    return LOSSES.build('cross_entropy', given)
"""


@pytest.mark.parametrize(("share", "seen"), [(0.5, "0"), (0.0, "")])
def test_trials_that_share_a_gpu_see_it_and_others_see_none(
    small_study: StudyFolder,
    small_cohort: Cohort,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    seen: str,
) -> None:
    monkeypatch.setenv("HISTOTUNE_LOGICAL_GPUS", "1")
    plugins, text = tmp_path / "plugins", tmp_path / "told"
    plugins.mkdir()
    (plugins / "telling.py").write_text(SEES.format(place=str(text)).replace("telling", f"telling_{seen or 'none'}"))
    load_plugins(plugins)
    space = read_space(SPACE | {"epochs": 1, "loss": f"telling_{seen or 'none'}"}, "s")
    resources = Resources(0.5, share, max_concurrent=2)
    run(small_study, space, {32: small_cohort.folder}, Budget(3), resources, cluster=Cluster(plugins=[plugins]))
    assert [record.state for record in small_study.trials()] == [COMPLETE] * 3
    answers = [json.loads(line) for line in text.read_text().splitlines()]
    assert {devices for process, devices in answers if process != os.getpid()} == {seen}


def test_shares_of_a_gpu_bound_the_trials_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOTUNE_LOGICAL_GPUS", "1")
    assert Resources(0.01, 0.25).check() == 4
    with pytest.raises(
        ConfigError, match=r"0\.5 GPUs per trial x 3 trials at once requested, but this machine has 1 GPUs"
    ):
        Resources(0.01, 0.5, max_concurrent=3).check()
    with pytest.raises(ConfigError, match="2 GPUs per trial requested"):
        Resources(0.01, 2).check()


@pytest.mark.parametrize(("share", "limits"), [(0.25, [0.25]), (1.0, []), (2.0, []), (0.0, [])])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, share: float, limits: list[float]
) -> None:
    set_: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", set_.append)
    share_gpu(share)
    assert set_ == limits
