"""The search's decisions, without any engine: what runs next, what stops, when it is over."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histotune import files
from histotune.errors import TrialFailed
from histotune.search._events import EXHAUSTED, FAILURES, Listener, Summary
from histotune.search.budget import TRIALS, Budget, Ledger
from histotune.search.journal import CONFIG, DEATHS, DIGEST, Journal
from histotune.search.sampler import Proposer
from histotune.search.schedule import Scheduler
from histotune.store import COMPLETE, FAILED, STOPPED, StudyStore, TrialRecord, read_record

FAILURES_IN_A_ROW = 5
STARTS = 3  # of a trial whose worker dies under it; the last death is its result
STILLBIRTHS = 5  # workers in a row that die before they begin: it is not the trial's fault, and will not get better
STOP = "stop"  # file in a trial folder: the worker that finds it ends the trial there


@dataclass(frozen=True)
class Assignment:
    """A trial for a worker."""

    number: int
    config: Mapping[str, Any]


@dataclass
class History:
    """What earlier searches of the study left.

    Attributes:
        ledger: what they spent.
        digests: {digest of a configuration: number of its trial}.
        unfinished: {number: configuration} of trials to take up again.
        deaths: {number: how often its worker died}.
    """

    ledger: Ledger = field(default_factory=Ledger)
    digests: dict[str, int] = field(default_factory=dict)
    unfinished: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)


class Conductor:
    """Hands out trials, hears of them, and writes down what is decided, in an order that survives a crash at any point.

    Args:
        store: the study's files.
        journal: the study's journal.
        proposer: proposes configurations.
        scheduler: stops trials.
        history: what earlier searches left, as `resume.take_up` found it.
        budget: when it is over.
        at_once: trials that run together at most.
        metric: name of the validation metric, and 1 or -1 for "more is better" or not.
        others: further metrics, which the sampler alone hears of.
        listeners: hear of everything, after it was decided.
        notes: what the summary shall tell from the start.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        store: StudyStore,
        journal: Journal,
        proposer: Proposer,
        scheduler: Scheduler,
        history: History,
        *,
        budget: Budget,
        at_once: int,
        metric: tuple[str, int],
        others: Sequence[str] = (),
        listeners: Sequence[Listener] = (),
        notes: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._journal, self._proposer, self._scheduler = store, journal, proposer, scheduler
        self._history, self._budget, self._at_once, self._clock = history, budget, at_once, clock
        self._metric, self._sign = metric
        self._others = list(others)
        self._listeners = list(listeners)
        self._ledger = history.ledger
        self._waiting = deque(sorted(history.unfinished.items()))
        self._live: dict[int, Mapping[str, Any]] = {}
        self._events: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._counts: Counter[str] = Counter()
        self._row: tuple[str, int] = ("", 0)  # kind of the latest failures, and how many in a row
        self._end: tuple[str, str] | None = None
        self._exhausted = False
        self._begun: set[int] = set()
        self._stillborn = 0
        self._notes = list(notes)
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
        proposal = self._proposer.propose(self._history.digests.__contains__)
        if proposal is None:
            self._exhausted = True
            return None
        attributes = {CONFIG: proposal.config, DIGEST: proposal.digest}
        number = self._journal.propose(proposal.params, proposal.distributions, attributes)
        self._proposer.running(number)
        self._history.digests[proposal.digest] = number
        return self._start(number, proposal.config)

    def begun(self, number: int) -> None:
        """Hear that a worker is ready for a trial: if it dies now, the trial may have killed it."""
        self._begun.add(number)
        self._stillborn = 0

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Hear of an epoch; return whether the trial is to stop, which its folder then says, too.

        The first trial, the space's default, always runs to its end: everything is compared with it.
        """
        value = metrics[self._metric]
        if value == value:
            self._journal.report(number, epoch, value)
        self._ledger.train(number, epoch)
        stop = self._scheduler.report(number, epoch, self._sign * value) and number > 0
        if stop:
            files.write_text(self._store.trial_folder(number) / STOP, f"after epoch {epoch}\n")
        self._events.append(("reported", (number, epoch, dict(metrics))))
        return stop

    def ended(self, number: int) -> None:
        """Hear that a trial's folder is complete; a trial is counted once, however often it is said."""
        if self._live.pop(number, None) is None:
            return
        record = read_record(self._store.trial_folder(number), number)
        assert record is not None
        values = settle(self._journal, record, [self._metric, *self._others], order=self._ledger.ended)
        self._proposer.ended(number, values)
        self._ledger.end(number, record.epochs, None if values is None else self._sign * values[0])
        self._counts[record.state] += 1
        self._events.append(("ended", (record,)))
        self._count_failure(record)

    def died(self, number: int, reason: str) -> None:
        """Hear that a trial's worker is gone: the trial starts again from its checkpoint, a few times at most."""
        if number not in self._live:
            return
        if read_record(self._store.trial_folder(number), number) is not None:
            self.ended(number)
            return
        if number not in self._begun:
            self._stillborn += 1
            self._waiting.appendleft((number, self._live.pop(number)))
            if self._stillborn >= STILLBIRTHS:
                self.finish(FAILURES, f"{STILLBIRTHS} workers in a row died before they began: {reason}")
            return
        self._begun.discard(number)
        self._history.deaths[number] += 1
        deaths = self._history.deaths[number]
        self._journal.note(number, DEATHS, deaths)
        if deaths < STARTS:
            self._waiting.appendleft((number, self._live.pop(number)))
            return
        from histotune.train import fail  # torch: the driver needs it for nothing else

        folder = self._store.trial_folder(number)
        fail(folder, TrialFailed("killed", f"its worker died {deaths} times, the last time: {reason}"))
        self.ended(number)

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
                self.finish(EXHAUSTED, "the space holds no configuration that was not tried")
        return self._end is not None

    def deliver(self) -> None:
        """Tell the listeners what happened since; one that raises is told no more, and the summary says so."""
        while self._events:
            name, arguments = self._events.popleft()
            for listener in tuple(self._listeners):
                try:
                    getattr(listener, name)(*arguments)
                except Exception as error:
                    self._listeners.remove(listener)
                    self._notes.append(f"{type(listener).__name__} stopped listening: {error!r}")

    def summary(self) -> Summary:
        """Say how the search ended."""
        reason, message = self._end or (TRIALS, "")
        return Summary(
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

    def _start(self, number: int, config: Mapping[str, Any]) -> Assignment:
        self._live[number] = config
        self._events.append(("started", (number, config)))
        return Assignment(number, config)

    def _count_failure(self, record: TrialRecord) -> None:
        kind, times = self._row
        if record.state != FAILED:
            self._row = ("", 0)
            return
        self._row = (record.kind, times + 1 if record.kind == kind else 1)
        if self._row[1] >= FAILURES_IN_A_ROW:
            self.finish(FAILURES, f"{FAILURES_IN_A_ROW} trials in a row failed with {record.kind}: {record.reason}")


def settle(journal: Journal, record: TrialRecord, metrics: Sequence[str], *, order: int) -> list[float] | None:
    """Write a record's end to the journal and return the values that a sampler may learn from, if any.

    A trial that was stopped or failed, or one of whose metrics is undefined, has none.
    `order` says how many trials of the study had ended before it.
    """
    values = [record.metrics.get(name, float("nan")) for name in metrics]
    learnt = values if record.state == COMPLETE and all(value == value for value in values) else None
    journal.tell(record, learnt, order)
    return learnt
