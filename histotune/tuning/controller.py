"""The search's decisions, without any engine: what runs next, what stops, when it is over."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histotune.core import files
from histotune.metrics.scores import direction
from histotune.storage import layout
from histotune.storage.records import Parent, TrialRecord, read_record
from histotune.storage.selection import modality_of
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.training import memory
from histotune.tuning.budget import TRIALS, Budget, Ledger
from histotune.tuning.events import EXHAUSTED, FAILURES, Listener, SearchSummary
from histotune.tuning.failures import FailurePolicy, HangDetector
from histotune.tuning.journal import CONFIG, DEATHS, DIGEST, PARENT, Journal
from histotune.tuning.pbt import PbtQueue
from histotune.tuning.proposer import Proposal, Proposer
from histotune.tuning.retention import ModelRetention
from histotune.tuning.schedulers import Scheduler


@dataclass(frozen=True)
class Assignment:
    """A trial for a worker.

    Attributes:
        parent: whose checkpoint it begins from; None when it begins by itself.
    """

    number: int
    config: Mapping[str, Any]
    parent: Parent | None = None


@dataclass
class TrialHistory:
    """What earlier searches of the study left.

    Attributes:
        ledger: what they spent.
        digests: {digest of a configuration: number of its trial}.
        unfinished: {number: configuration} of trials to take up again.
        parents: {number: whose checkpoint it begins from} of those that do not begin by themselves.
        deaths: {number: how often its worker died}.
        longest: mean seconds of an epoch of the trial that took longest.
    """

    ledger: Ledger = field(default_factory=Ledger)
    digests: dict[str, int] = field(default_factory=dict)
    unfinished: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    parents: dict[int, Parent] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0


@dataclass(frozen=True)
class Limits:
    """How much a search spends, runs together and keeps.

    Args:
        budget: when it is over.
        at_once: trials that run together at most.
        trial_timeout: seconds without an epoch after which a trial hangs; None and 0 as `HangDetector` has them.
        keep_models: complete trials whose weights are kept, as `ModelRetention` has it.
    """

    budget: Budget
    at_once: int
    trial_timeout: float | None = None
    keep_models: int = 0


class SearchController:
    """Assigns trials, records their progress and the decisions on them, in an order that survives a crash at any point.

    Args:
        store: the study's files.
        journal: the study's journal.
        proposer: proposes configurations.
        scheduler: stops trials.
        history: what earlier searches left, as `resume.take_up` found it.
        metrics: the validation metric, and further ones, which only the sampler is given.
        limits: when it is over, and how much runs and stays.
        queue: hands out trials that go on from another's checkpoint; None where the scheduler leaves no place to any.
        listeners: are called with every event, after it was decided.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        store: StudyFolder,
        journal: Journal,
        proposer: Proposer,
        scheduler: Scheduler,
        history: TrialHistory,
        *,
        metrics: Sequence[str],
        limits: Limits,
        queue: PbtQueue | None = None,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._journal, self._proposer, self._scheduler = store, journal, proposer, scheduler
        self._history, self._budget, self._at_once, self._clock = history, limits.budget, limits.at_once, clock
        self._metric, *self._others = metrics
        self._sign, self._queue = direction(self._metric), queue
        self._listeners = list(listeners)
        self._ledger = history.ledger
        self._waiting = deque(sorted(history.unfinished.items()))
        self._live: dict[int, Mapping[str, Any]] = {}
        self._events: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._counts: Counter[str] = Counter()
        self._end: tuple[str, str] | None = None
        self._exhausted = False
        self._failures = FailurePolicy(history.deaths, HangDetector(limits.trial_timeout, longest=history.longest))
        self._keeper = ModelRetention(store, limits.keep_models)
        self._notes: list[str] = []
        self._began = clock()

    @property
    def hungry(self) -> bool:
        """Whether one more trial may run now."""
        room = len(self._live) < self._at_once and not self._exhausted and self._end is None
        wanted = bool(self._waiting) or not self._budget.stale(self._ledger)
        planned = self._ledger.ended + len(self._live)
        return room and wanted and not self._budget.full(planned) and self._cut() is None

    def next(self) -> Assignment | None:
        """Return the next trial to run: an interrupted one, else a new configuration; None when there is none now."""
        if not self.hungry:
            return None
        if self._waiting:
            number, config = self._waiting.popleft()
            return self._start(number, config)
        if self._queue is not None and (descendant := self._queue.next()) is not None:
            return self._propose(*descendant)
        proposal = self._proposer.propose(self._history.digests.__contains__)
        if proposal is None:
            self._exhausted = True
            return None
        return self._propose(proposal)

    def begun(self, number: int) -> None:
        """Record that a worker is ready for a trial: if it dies from now on, the trial may have killed it."""
        self._failures.begun(number)

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Record an epoch; return whether the trial is to stop, which is then also written into its folder.

        The first trial, the default configuration, always runs to its end: everything is compared with it.
        """
        self._failures.epoch(number)
        value = metrics[self._metric]
        if value == value:
            self._journal.report(number, epoch, value)
        self._ledger.train(number, epoch)
        stop = self._scheduler.report(number, epoch, self._sign * value, modality_of(self._live[number])) and number > 0
        if stop:
            files.write_text(self._store.trial_folder(number) / layout.STOP, f"after epoch {epoch}\n")
        if self._queue is not None:
            self._queue.reported(number, epoch)
        self._events.append(("reported", (number, epoch, dict(metrics))))
        return stop

    def ended(self, number: int) -> None:
        """Record that the folder of a trial is complete; a trial is counted once, however often this is called."""
        self._failures.gone(number)
        if self._live.pop(number, None) is None:
            return
        record = read_record(self._store.trial_folder(number), number)
        assert record is not None
        values = settle(self._journal, record, [self._metric, *self._others], order=self._ledger.ended)
        self._proposer.ended(number, values, infeasible=record.kind == memory.INFEASIBLE)
        self._ledger.end(number, record.epochs, None if values is None else self._sign * values[0])
        self._counts[record.state] += 1
        self._keeper.ended(record)
        if self._queue is not None:
            self._queue.ended(record)
        self._events.append(("ended", (record,)))
        unended = {*self._live, *(waiting for waiting, _ in self._waiting)}
        self._failures.count(
            record, fits=self._ledger.best_at > 0 or 0 in unended
        )  # 0 is the default, which runs first
        self._end_if_hopeless()

    def hanging(self) -> list[int]:
        """Return the trials that have been silent for too long, each once: their workers are to be killed."""
        return self._failures.hanging(self._clock())

    def died(self, number: int, reason: str, *, starved: bool = False) -> None:
        """Record that the worker of a trial is gone: the trial starts again from its checkpoint, a few times at most.

        Args:
            starved: it was killed for want of memory: the trial goes on in half the micro-batch, as often as that can
                be, and then it is infeasible.
        """
        self._failures.gone(number)
        if number not in self._live:
            return
        folder = self._store.trial_folder(number)
        if read_record(folder, number) is not None:
            self.ended(number)
            return
        before = self._failures.deaths(number)
        failure = self._failures.died(number, folder, reason, starved=starved)
        if (deaths := self._failures.deaths(number)) != before:
            self._journal.note(number, DEATHS, deaths)
        if failure is None:
            self._waiting.appendleft((number, self._live.pop(number)))
            self._end_if_hopeless()
            return
        from histotune.training.trial_folder import fail

        fail(folder, failure, config=self._live[number])
        self.ended(number)

    def remark(self, note: str) -> None:
        """Add a note for the summary; the same note once only."""
        if note not in self._notes:
            self._notes.append(note)

    def finish(self, reason: str, message: str) -> None:
        """End the search now; what runs is left to be resumed."""
        self._end = self._end or (reason, message)

    def over(self) -> bool:
        """Whether the search is over."""
        self._end = self._end or self._cut()
        if self._end is None and not self._live and not self.hungry:
            if (enough := self._budget.enough(self._ledger)) is not None:
                self.finish(*enough)
            elif self._exhausted:
                self.finish(EXHAUSTED, "every configuration of the search space was tried")
        return self._end is not None

    def deliver(self) -> None:
        """Call the listeners with what happened since; one that raises is not called again, which the summary notes."""
        while self._events:
            name, arguments = self._events.popleft()
            for listener in tuple(self._listeners):
                try:
                    getattr(listener, name)(*arguments)
                except Exception as error:
                    self._listeners.remove(listener)
                    self._notes.append(f"{type(listener).__name__} was dropped after an error: {error!r}")

    def summary(self) -> SearchSummary:
        """Return how the search ended."""
        reason, message = self._end or (TRIALS, "")
        return SearchSummary(
            reason=reason,
            message=message,
            ended=self._ledger.ended,
            complete=self._counts[COMPLETE],
            stopped=self._counts[STOPPED],
            failed=sum(self._counts.values()) - self._counts[COMPLETE] - self._counts[STOPPED],
            unfinished=len(self._live) + len(self._waiting),
            seconds=self._clock() - self._began,
            notes=tuple(self._notes),
        )

    def _cut(self) -> tuple[str, str] | None:
        return self._budget.cut(self._ledger, self._clock() - self._began)

    def _propose(self, proposal: Proposal, parent: Parent | None = None) -> Assignment:
        """Write a proposal down and hand it out; another trial's descendant is no repetition of its configuration."""
        attributes = {CONFIG: proposal.config} | ({PARENT: parent} if parent else {DIGEST: proposal.digest})
        number = self._journal.propose(proposal.params, proposal.distributions, attributes)
        if parent is None:
            self._proposer.running(number)
            self._history.digests[proposal.digest] = number
        else:
            self._history.parents[number] = parent
            self._ledger.inherit(number, parent.epoch)
        if self._queue is not None:
            self._queue.begun(number, proposal.params, parent)
        return self._start(number, proposal.config)

    def _start(self, number: int, config: Mapping[str, Any]) -> Assignment:
        self._live[number] = config
        self._events.append(("started", (number, config)))
        return Assignment(number, config, self._history.parents.get(number))

    def _end_if_hopeless(self) -> None:
        if self._failures.end:
            self.finish(FAILURES, self._failures.end)


def settle(journal: Journal, record: TrialRecord, metrics: Sequence[str], *, order: int) -> list[float] | None:
    """Write a record's end to the journal and return the values that a sampler may learn from, if any.

    A trial that was stopped or failed, or one of whose metrics is undefined, has none.
    `order` says how many trials of the study had ended before it.
    """
    values = [record.metrics.get(name, float("nan")) for name in metrics]
    learnt = values if record.state == COMPLETE and all(value == value for value in values) else None
    journal.tell(record, learnt, order)
    return learnt
