"""Ray Tune runs the trials; every decision is made by the controller. These classes pass calls between the two."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from histotune.storage import layout
from histotune.storage.records import read_record
from histotune.storage.study_folder import StudyFolder
from histotune.training import memory
from histotune.training.checkpoint import forget
from histotune.tuning.controller import Assignment, SearchController
from histotune.tuning.events import FAILURES, INTERRUPTED, Signals
from histotune.tuning.options import RunEnvironment
from histotune.tuning.ray_worker import DISK, ENDED, EPOCH, METRICS, NODE, NOTE, PROCESS, TrialWorker
from histotune.tuning.remote_storage import RemoteStorage
from histotune.tuning.trial_workspace import pack


class _SearchOver(BaseException):
    """Leaves Ray Tune's loop at a safe place; a BaseException, so that Tune does not treat it as a trial's failure."""


class RayBridge:
    """The controller behind the interfaces of Ray Tune's searcher, scheduler and callback.

    An error within a decision is kept and raised from the loop's next step: Tune would wrap it, or blame the trial.
    """

    def __init__(
        self,
        controller: SearchController,
        signals: Signals,
        describe: Callable[[Assignment], Mapping[str, Any]],
        sync: TrialSync,
    ) -> None:
        self.controller = controller
        self.error: BaseException | None = None
        self._signals = signals
        self._describe = describe
        self._sync = sync
        self._kills = memory.oom_kills()
        self._workers: dict[int, tuple[str, int]] = {}

    def suggest(self) -> Mapping[str, Any] | None:
        """Return the next trial's description for a worker, or None when none is to run now."""
        with self._kept():
            assignment = self.controller.next()
            if assignment is None:
                return None
            self._sync.send(assignment.number, layout.STOP, layout.ENVIRONMENT)
            return self._describe(assignment)
        return None

    def on_result(self, number: int, result: Mapping[str, Any]) -> str:
        """Record the answer of a worker and return what Tune is to do with the trial."""
        with self._kept():
            if PROCESS in result:
                self._workers[number] = result[NODE], result[PROCESS]
            self.controller.begun(number)
            # a worker that is to stop finds that in the folder of the trial before it goes on
            if EPOCH in result and self.controller.reported(number, result[EPOCH], dict(result[METRICS])):
                self._sync.send(number, layout.STOP)
            if NOTE in result:
                self.controller.remark(result[NOTE])
            if DISK in result:
                self.controller.finish(FAILURES, result[DISK])
            if result[ENDED]:
                self._sync.fetch(number)
                self.controller.ended(number)
        return str(FIFOScheduler.STOP if result[ENDED] or self.error else FIFOScheduler.CONTINUE)

    def on_error(self, number: int, trace: str) -> None:
        """Record that a worker is gone, with the reason that Ray gives."""
        kills, before = memory.oom_kills(), self._kills
        self._kills = kills
        with self._kept():
            self._sync.fetch(number)
            starved = (
                kills > before or "OutOfMemoryError" in trace
            )  # the count of the kernel, or the error of Ray's memory monitor
            self.controller.died(number, reason_of(trace), starved=starved and self._sync.knows(number))

    def on_step(self) -> None:
        """Leave the loop when the search is over; call the listeners when no worker waits for a trial."""
        if self.error is not None:
            raise self.error
        if self._signals.received:
            name = signal.Signals(self._signals.received[0]).name
            self.controller.finish(INTERRUPTED, f"interrupted by {name}; run the same command again to continue")
        if self.controller.over():
            raise _SearchOver
        for number in self.controller.hanging():
            kill_process(*self._workers[number])
        if not self.controller.hungry:
            self.controller.deliver()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error of the block; of several the first, whose consequences the others may be."""
        try:
            yield
        except BaseException as error:
            self.error = self.error or error


def kill_process(node: str, process: int) -> None:
    """Kill a worker with SIGKILL, on the node where it runs; Ray notices by itself."""

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):  # it died meanwhile
            os.kill(process, signal.SIGKILL)

    if node == ray.get_runtime_context().get_node_id():
        kill()
        return
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(kill).options(num_cpus=0, scheduling_strategy=there).remote()


class TrialSync:
    """Carries trial folders between the study and a storage that stands between driver and workers, where one does."""

    def __init__(self, store: StudyFolder, remote: RemoteStorage | None) -> None:
        self._store, self._remote = store, remote

    def send(self, number: int, *names: str) -> None:
        """Pass on those of the files `names` that stand in the trial's folder: what the driver decided on it."""
        folder = self._store.trial_folder(number)
        for name in names:
            if self._remote and (folder / name).exists():
                self._remote.send(folder, name)

    def knows(self, number: int) -> bool:
        """Whether the study's folder says with which micro-batch a trial ran; through a storage, after its first epoch.

        Where there is none between them, a trial whose folder does not say it never got that far.
        """
        return self._remote is None or (self._store.trial_folder(number) / layout.ENVIRONMENT).exists()

    def fetch(self, number: int) -> None:
        """Bring the trial's files into the study; a record that stands there stays."""
        folder = self._store.trial_folder(number)
        if self._remote and read_record(folder) is None:
            self._remote.pull(folder)
            if read_record(folder) is not None:
                (folder / layout.STOP).unlink(missing_ok=True)
                forget(folder)


def reason_of(trace: str) -> str:
    r"""Return the sentence of Ray's report on a dead worker that gives the reason.

    >>> reason_of("Failure # 1\nThe actor died: it raised\nhistotune.errors.DataError: no such file\n")
    'histotune.errors.DataError: no such file'
    """
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    exits = [line.partition("Worker exit detail: ")[2] for line in lines if "Worker exit detail: " in line]
    return (named or exits or lines or ["no reason given"])[-1].partition(" Some common causes")[0]


def drive(
    controller: SearchController,
    signals: Signals,
    *,
    study: Path,
    cohorts: Mapping[int, Path],
    metric: str,
    site: RunEnvironment,
    scratch: Path,
    plugins: Sequence[Path] = (),
    keep: Sequence[int] = (),
) -> None:
    """Run trials in Ray, which is running, until the controller ends the search or a signal comes.

    `keep` names the epochs after which a trial's checkpoint is kept.
    """
    packed, resources = pack(plugins), site.resources

    def describe(assignment: Assignment) -> Mapping[str, Any]:
        return {
            "number": assignment.number,
            "config": assignment.config,
            "parent": assignment.parent,
            "keep": keep,
            "study": str(study),
            "cohort": str(cohorts[assignment.config["image_size"]]),
            "metric": metric,
            "threads": resources.threads,
            "plugins": packed,
            "gpus": resources.gpus,
            "cpus": resources.cpus_per_trial,
            "at_once": site.at_once,
            "remote": site.remote.uri if site.remote else None,
        }

    bridge = RayBridge(controller, signals, describe, TrialSync(StudyFolder(study), site.remote))
    with contextlib.suppress(_SearchOver), _starved_workers_are_dead():
        tune.run(
            TrialWorker,
            name="search",
            storage_path=str(scratch / "tune"),
            num_samples=-1,
            search_alg=_Searcher(bridge),
            scheduler=_Scheduler(bridge),
            callbacks=[_Callback(bridge)],
            resources_per_trial={"cpu": resources.cpus_per_trial, "gpu": resources.gpus},
            reuse_actors=True,
            max_failures=0,
            verbose=0,
            raise_on_failed_trial=False,
        )


@contextlib.contextmanager
def _starved_workers_are_dead() -> Iterator[None]:
    """Make Tune treat an error of Ray's memory monitor as the death of a worker, which it does not for actors.

    Without it, a worker that the monitor kills is the end of Tune's loop, and of the search.
    """
    before = RayActorManager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        starved = isinstance(exception, OutOfMemoryError)
        death = RayActorError(error_msg=f"{OutOfMemoryError.__name__}: {exception}") if starved else exception
        before(self, tracked_actor_task, death)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = before


class _Searcher(Searcher):  # type: ignore[misc]
    def __init__(self, bridge: RayBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        return self._bridge.suggest()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler has recorded it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""


class _Scheduler(FIFOScheduler):  # type: ignore[misc]
    def __init__(self, bridge: RayBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self._bridge.on_result(trial.config["number"], result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        trace = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        self._bridge.on_error(trial.config["number"], trace)


class _Callback(Callback):  # type: ignore[misc]
    def __init__(self, bridge: RayBridge) -> None:
        self._bridge = bridge

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._bridge.on_step()
