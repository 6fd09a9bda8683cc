"""Proposals: Optuna's samplers, shown only what they may learn from."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from histotune.core.config import TrialConfig
from histotune.space import Condition, Space
from histotune.storage.selection import modality_of
from histotune.training.memory import INFEASIBLE
from histotune.tuning.journal import CONFIG, PARENT, RECORD
from histotune.tuning.samplers import GRID, build_sampler, draws, memory
from histotune.tuning.schedulers import Scheduler
from histotune.tuning.warm_start import EarlierTrial, WarmStart

RANDOM_DRAWS = 200  # of a repeated configuration, after those by the sampler
SEEN = (TrialState.COMPLETE, TrialState.RUNNING)
MIN_DRAWS = 2  # proposals that every option of a conditional space gets before the sampler alone decides
FORCED_DRAWS = 20  # at random, of a repeated configuration under one forced option
EXPLORED = 1 / 3  # of the proposals, drawn at random where trials run side by side and weak ones are stopped
LISTED = 10_000  # combinations of a space that is listed to its end when draws bring nothing new


@dataclass(frozen=True)
class Proposal:
    """A configuration that was never tried, and where in the space it lies."""

    config: dict[str, Any]
    digest: str
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


class Proposer:
    """Asks a sampler for configurations over a study in memory that holds only what the sampler may see.

    It sees complete trials with their value and running ones without (so that it does not propose beside them).
    Trials that were stopped or failed, that began from another's checkpoint, or that come from outside the present
    space, it does not see; but those for which
    the memory does not suffice it sees as violating a constraint, so that it learns where the boundary runs. Of many
    complete trials it sees the best and the latest, `memory` of each, up to four times as many in all before it forgets
    again: a proposal takes as long in a study of ten thousand trials as in one of a thousand.

    In a conditional space no option is neglected because another was lucky early: while one was proposed fewer than
    `MIN_DRAWS` times, in whatever state its trials ended, the least proposed option is forced, together with others
    that are behind and can stand beside it; what is left free the sampler proposes. A grid visits every option anyway.

    Proposals of trials that run side by side are made without each other's results, so that a model proposes similar
    configurations again and again. Where a scheduler makes a random proposal cheap, a share of them is therefore
    random, as in BOHB (Falkner et al., 2018): on learning curves of other tasks, four at once, it halved the regret
    after fifty trainings.

    Args:
        space: where to look.
        sampler: a name among `SAMPLERS`.
        seed: of the sampler; the number of earlier trials is mixed in, so that a continued search draws anew.
        maximize: whether more of the metric is better.
        others: the same of further metrics; the proposals then look for a Pareto front.
        history: every trial so far.
        start: configurations that come right after the default, and trials of another study to learn from.
        explored: share of random proposals once the sampler alone would propose; see `explored`.
    """

    def __init__(
        self,
        space: Space,
        sampler: str,
        *,
        seed: int,
        maximize: bool,
        others: Sequence[bool] = (),
        history: list[FrozenTrial] | None = None,
        start: WarmStart | None = None,
        explored: float = 0.0,
    ) -> None:
        history = history or []
        self._space = space
        self._sampler = build_sampler(sampler, _mix(seed, len(history), 0))
        self._draws = draws(sampler)
        self._random = RandomSampler(seed=_mix(seed, len(history), 1))
        self._explored, self._chance = explored, np.random.default_rng(_mix(seed, len(history), 2))
        self._seen = optuna.create_study(
            directions=["maximize" if more else "minimize" for more in (maximize, *others)], sampler=self._sampler
        )
        self._drafts: dict[int, int] = {}
        self._draft = -1
        start = start or WarmStart()
        asked = filter(space.accepts, start.first)
        first = [*([] if history else [space.default_parameters()]), *asked, *_arms(space)]
        self._first = deque[Mapping[str, Any]](first)
        self._grid = space.combinations() if sampler == GRID else None
        self._drawn = Counter(dict.fromkeys(space.branches(), 0))
        self._spent: set[Condition] = set()
        self._memory, self._maximize = memory(sampler), maximize
        for known in start.known:
            self._learn(known)
        fitting = [trial for trial in history if _tells(trial) and space.accepts(trial.params)]
        for trial in _worth_seeing(fitting, self._memory, maximize=maximize):
            self._show(trial)
        for trial in history:
            self._drawn.update(space.branches_of(trial.user_attrs.get(CONFIG, {})))

    def propose(self, known: Callable[[str], bool]) -> Proposal | None:
        """Propose a configuration whose digest is not `known`; the first of a study is the default configuration.

        Returns:
            None when everything was tried: a small space to its last combination, a large one by hundreds of draws.
        """
        for sampler, fixed in self._attempts():
            self._seen.sampler = sampler
            if fixed:
                self._seen.enqueue_trial(dict(fixed))
            trial = self._seen.ask()
            config = TrialConfig.from_dict(self._space.suggest(trial))
            if not known(config.digest()):
                self._draft = trial.number
                self._drawn.update(self._space.branches_of(config.to_dict()))
                return Proposal(config.to_dict(), config.digest(), trial.params, trial.distributions)
            self._seen.tell(trial.number, state=TrialState.FAIL)
        return None

    def _attempts(self) -> Iterator[tuple[BaseSampler, Mapping[str, Any]]]:
        """Yield, until one brings something new, who proposes and which parameters are given."""
        while self._first:
            yield self._sampler, self._first.popleft()
        if self._grid is not None:
            yield from ((self._random, combination) for combination in self._grid)
            return
        while behind := self._behind():
            yield from ((self._sampler, _together(behind)) for _ in range(self._draws))
            yield from ((self._random, dict(behind[0])) for _ in range(FORCED_DRAWS))
            yield from self._rest(behind[0])
            self._spent.add(behind[0])
        if self._explored and self._chance.random() < self._explored:
            yield self._random, {}
        yield from ((self._sampler, {}) for _ in range(self._draws))
        yield from ((self._random, {}) for _ in range(RANDOM_DRAWS))
        yield from self._rest(())

    def _rest(self, branch: Condition) -> Iterator[tuple[BaseSampler, Mapping[str, Any]]]:
        """List what a small space holds in a branch: random draws hardly ever find its last corners."""
        if self._space.size() <= LISTED:
            wanted = dict(branch).items()
            yield from ((self._random, values) for values in self._space.combinations() if wanted <= values.items())

    def _behind(self) -> list[Condition]:
        """Return the branches that were proposed too rarely, the rarest first, without those that hold nothing new."""
        counts = {branch: count for branch, count in self._drawn.items() if branch not in self._spent}
        return sorted((branch for branch in counts if counts[branch] < MIN_DRAWS), key=counts.__getitem__)

    def running(self, number: int) -> None:
        """Record that the last proposal runs as trial `number`."""
        self._drafts[number] = self._draft

    def ended(self, number: int, value: float | Sequence[float] | None, *, infeasible: bool = False) -> None:
        """Record how a trial ended: with a value (one per metric) to learn from, or with None.

        None hides the trial, unless it is infeasible.
        """
        draft = self._drafts.pop(number, None)
        if draft is None:
            return
        if value is None:
            text = self._seen.tell(draft, state=TrialState.FAIL)
            if infeasible:
                self._seen.add_trial(_forbidden(text.params, text.distributions))
        else:
            self._seen.tell(draft, value)
        if len(self._seen.get_trials(deepcopy=False)) > 4 * self._memory:
            self._forget()

    def _forget(self) -> None:
        """Begin the sampler's study anew with the trials that are worth seeing."""
        numbers = {draft: number for number, draft in self._drafts.items()}
        seen = [trial for trial in self._seen.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
        self._seen = optuna.create_study(directions=self._seen.directions, sampler=self._sampler)
        for draft, trial in enumerate(_worth_seeing(seen, self._memory, maximize=self._maximize)):
            self._seen.add_trial(trial)
            if trial.number in numbers:
                self._drafts[numbers[trial.number]] = draft

    def _learn(self, known: EarlierTrial) -> None:
        """Add a trial of another study, unless the present space is a narrower one."""
        if self._space.accepts(known.params):
            replay = FixedTrial(dict(known.params))
            self._space.suggest(replay)
            params, distributions = dict(known.params), replay.distributions
            self._seen.add_trial(create_trial(values=known.values, params=params, distributions=distributions))

    def _show(self, trial: FrozenTrial) -> None:
        """Add an earlier trial as it would stand if the present space had proposed it."""
        replay = FixedTrial(dict(trial.params))
        self._space.suggest(replay)
        if _infeasible(trial):
            self._seen.add_trial(_forbidden(trial.params, replay.distributions))
            return
        complete = trial.state == TrialState.COMPLETE
        self._seen.add_trial(
            create_trial(
                state=trial.state,
                values=trial.values if complete else None,
                params=dict(trial.params),
                distributions=replay.distributions,
            )
        )
        self._drafts[trial.number] = len(self._seen.get_trials(deepcopy=False)) - 1


def explored(scheduler: Scheduler, at_once: int) -> float:
    """Return the share of random proposals: 0 where each would cost a whole training."""
    return EXPLORED if at_once > 1 and scheduler.grace < math.inf else 0.0


def _together(branches: Iterable[Condition]) -> dict[str, str]:
    """Return the options of the first branch and of each later one that does not contradict those before it."""
    forced: dict[str, str] = {}
    for branch in branches:
        if all(forced.get(path, option) == option for path, option in branch):
            forced |= dict(branch)
    return forced


def _tells(trial: FrozenTrial) -> bool:
    """Whether a sampler may see a trial of the journal: not one that trained another's weights on."""
    return PARENT not in trial.user_attrs and (trial.state in SEEN or _infeasible(trial))


def _infeasible(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get(RECORD, {}).get("kind") == INFEASIBLE)


def _forbidden(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """Return a trial without a value that violates a constraint: a sampler keeps away from where it lies."""
    return create_trial(
        state=TrialState.PRUNED, params=dict(params), distributions=dict(distributions), constraints={"memory": 1.0}
    )


def _arms(space: Space) -> Iterator[Mapping[str, Any]]:
    """Yield the default of every modality that the space can read alone: what a fusion must beat.

    None where the default configuration, which comes first anyway, reads it alone.
    """
    seen = {modality_of(TrialConfig.from_dict(space.default()).to_dict()), ""}
    for sample in space.samples():
        modality = modality_of(TrialConfig.from_dict(sample).to_dict())
        if modality not in seen:
            seen.add(modality)
            yield space.locate(sample)


def _worth_seeing(trials: Sequence[FrozenTrial], count: int, *, maximize: bool) -> list[FrozenTrial]:
    """Return the `count` best and the `count` latest complete trials, and all that are not complete, in their order."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: trial.values[0], reverse=maximize)[:count]
    kept = {trial.number for trial in (*best, *complete[-count:])}
    return [trial for trial in trials if trial.state != TrialState.COMPLETE or trial.number in kept]


def _mix(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
