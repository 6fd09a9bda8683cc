"""Regret of searches that stop trials early, on learning curves of real networks, with a simulated clock.

    python tests/benchmarks/search_efficiency.py [LCBENCH_FOLDER] [--tasks A|B] [--seeds 4] [--workers 4] [--quick]

The controller, the proposer and the scheduler are the search's own; only training is replaced: LCBench's surrogate
(YAHPO gym, Pfisterer et al., 2022; Zimmer et al., 2021) gives the validation balanced accuracy after each of 52 epochs
and the seconds that they took. Workers report epoch by epoch in the order of that clock. The journal is kept in memory,
after one search has shown that the one on disk decides alike.

Regret is (best - found) / (best - median) of the last epoch of complete trainings: best and median of 2000 random
configurations, so that 0 is what 2000 full trainings at random find, and 1 a typical draw; below 0 counts as 0.
`strict` puts the surrogate's own optimum, found by climbing, in the place of best. A budget of 1 is one full training,
52 epochs; every search begins with the default, the middle of the space, as all of ours do.

Exits with 1 when ours is above the goal or above random + ASHA in the mean; `--quick` does not judge.

Choices were made on tasks A; what follows are regrets after 50 trainings, usual and strict, unless more is said.

First sitting: 2 seeds, 4 at once, best of 1000 random configurations; standard error about .03 (strict).

    random, no pruning                                      .255     .473      48 trials, 48 complete
    random + Ray's ASHA 2/6/18                              .047     .331     372/22
    Ray's own way                                           .208     .443     128/37
    ours, rungs 6/17                                        .082     .316     119/34
    ours, rungs 4/12                                        .061     .307     132/38
    ours, rungs 2/6/18                                      .057     .298     222/33
    ours, Ray's ASHA 2/6/18 (the second is judged, too)     .023     .283     246/31
    ours, 2/6/18, first trial drawn instead of the default  .073     .333     197/35
    ours, 2/6/18, trials stopped at rung 18 shown           .046     .291     169/36
    failed: stopped trials shown at an extrapolated value   .110     .363     152/38

Second sitting: this file's scale (best of 2000), 4 at once; standard error .02 to .04.

    random + Ray's ASHA 2/6/18, 4 seeds                     .144     .352
    ours, rungs 2/6/17 (chosen), 4 seeds                    .080     .277
    the same, the second trial at a rung is judged, too     .088     .282    (.071 and .105 by pairs of seeds)
    ours, rungs 6/17, 2 seeds                               .078     .295    (.275 after 20, chosen: .220)
    chosen, 10 start-up trials, 2 seeds                     .097     .289    (chosen, same seeds: .080, .271)
    chosen, 24 candidates, 2 seeds                          .098     .315
    failed: a quarter of the trials good, 2 seeds           .142     .350

Third sitting: usual regret after 10, 20 and 50, and how many times fewer epochs than random; 4 seeds. The standard
error of a difference to ours after 50 is .02 to .03.

                                                        4 at once                 1 at once
    ours (chosen)                                .375 .235 .098  3.1x      .318 .172 .040  4.2x
    random + Ray's ASHA                          .398 .310 .144  2.3x      .342 .246 .131  3.4x
    start-up: model of the highest rung that has as many scores, until as many are complete (BOHB)
      4 scores, 5 complete                       .357 .231 .081  3.3x      .285 .187 .084  5.0x
      6 scores, 10 complete                      .351 .218 .085  3.7x      .265 .140 .034  5.8x
      8 of each                                  .352 .214 .089  3.2x      .278 .171 .066  5.2x
      10 of each                                 .382 .228 .094  3.2x      .344 .200 .087  4.1x
      6 and 10, the second trial judged, too     .338 .235 .072  3.6x      .308 .218 .082  4.4x
    3 start-up trials                            .380 .239 .070  3.2x      .332 .241 .099  3.4x
    start-up by scrambled Halton points          .367 .267 .129  2.8x      .322 .220 .084  4.5x
    stopped trials in g(x) only, like running ones, not counted by gamma:
      all of them                                .384 .249 .121  2.9x      .314 .203 .080  4.1x
      those stopped after epoch 6                .381 .217 .104  3.0x      .312 .172 .053  4.4x
      all, with the start-up of 4 and 5          .371 .241 .110  3.2x      .296 .176 .093  4.7x

A copy of TPE in numpy, which takes whole numbers for continuous ones in its densities, allowed more seeds. Differences
to ours after 50, with their standard errors over searches:

                                                 seeds    4 at once       1 at once
    ours itself                                     12     .075            .088
    start-up as above, 6 and 10                      6    +.060 .024      -.024 .019
      the same, the second trial judged, too         6    +.056 .024      -.016 .020
      the same, a third of the proposals random     12    +.028 .015      -.012 .017
    a fifth of the proposals random                  8    +.018 .016      -.021 .017
    a third                                         12    -.011 .012      -.034 .014
    stopped since the last complete one in g(x)      6    +.023 .018      -.003 .015
      with start-up 6 and 10                         6    +.049 .023      -.061 .016
    keep 1/2, 1/3, 1/6 at the rungs                  8    +.004 .016      -.010 .016
      a third random, too                            8    +.027 .017      -.024 .017
      told: complete, then stopped at the last rung  8    +.040 .018      -.009 .015
    random, after 8 stopped in a row, every second   8    -.005 .016      -.035 .013
    random, after 4 stopped in a row, always         8    +.024 .015      -.022 .016

The copy does not settle it: with Optuna's own TPE the last but one, built and measured with one at once, gave .061 for
.040 (seeds 0 to 3) and .063 for .072 (4 to 8), and was dropped. A third of the proposals random, as in BOHB, gave with
four at once .060 for .098 (seeds 0 to 3) and, on fresh seeds 4 to 9, .051 for .089 (difference -.037, standard error
.018), with one at once .047 for .040 (.007, .019). A last look, with this file and seeds 10 to 17, gave .083 for .087
(-.003, .015), after 20 trainings .252 for .233 (.019, .019): the gain is smaller than it seemed, and comes late, if at
all. Tasks B gave .038 for .065, see below. It is what ours does since then where trials run side by side and a
scheduler stops weak ones: elsewhere a random proposal costs a whole training, or the model knows every result. It is
the one candidate that tasks B were asked about, see below. BOHB's start-up reaches random's result in fewer epochs, but
in the copy ends worse with four at once.

What limits it: most searches end near 0 (median of ours in the copy: .001 and .010), and the mean is made by the third
that end above .05 in a local optimum, so that 4 seeds tell differences of about .05. The first rung loses more than
the later ones: of the best 15 of 1500 random configurations, .47 to 1.0 by task are within the best third after
epoch 2; after epoch 17 their median rank is within the first .02 on 9 of 10 tasks. Yet stricter late rungs did not pay.

Tasks B, on which nothing was chosen, once after the second sitting, 4 seeds, 4 at once, the same seeds per policy; the
last lines after the third, first with a simulator of its own, then with this file as it stands:

                       @5    @10    @20    @50   strict@50   se   fewer epochs   worst task
    random            .570   .435   .369   .257     .427   .041       1.0x          .407
    TPE               .570   .435   .320   .114     .316   .035       1.8x          .398
    random + ASHA     .482   .387   .244   .134     .334   .027       2.6x          .288
    Ray's own way     .525   .382   .286   .239     .422   .048       1.2x          .421
    ours until then   .561   .397   .192   .065     .246   .020       3.0x          .201
    a third random    .533   .392   .194   .033     .221   .015       3.2x          .150
    ours (chosen)     .560   .399   .220   .038     .214            3.0x          .250

Ours until then minus random + ASHA at 50: -.070, standard error over tasks .019. A third random, which is ours now,
reaches .050 and not four times fewer epochs. At 5 and 10 trainings random + ASHA is ahead. The same with
one trial at once (`--workers 1`), where every proposal knows every result: ours reaches .050, four times fewer epochs
just not; a third random reaches neither.

    random            .483   .403   .344   .254     .426   .041       1.0x          .407
    TPE               .483   .403   .261   .092     .296   .030       2.4x          .271
    random + ASHA     .411   .318   .218   .130     .332   .026       3.8x          .288
    Ray's own way     .366   .245   .133   .099     .300   .035       5.1x          .368
    ours, rungs 4/12  .484   .290   .182   .028     .214   .008       4.0x          .075
    ours (chosen)     .468   .319   .169   .043     .223   .023       3.8x          .247
    a third random    .460   .308   .181   .057     .237   .022       3.6x          .235
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
import scipy.special
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray.tune.schedulers.async_hyperband import _Bracket

from histotune.space import Space, read_space
from histotune.storage.records import write_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.tuning.budget import Budget
from histotune.tuning.controller import Limits, SearchController, TrialHistory
from histotune.tuning.journal import Journal
from histotune.tuning.proposer import Proposer, explored
from histotune.tuning.schedulers import Asha, Scheduler

FOLDER = Path(__file__).parents[2] / "../shared/bench/lcbench"
METRIC, EPOCHS, BUDGETS = "balanced_accuracy", 52, (5, 10, 20, 50)
VALIDATION, SECONDS = 3, 0  # columns of the surrogate's answer
GOAL = 0.05
# LCBench's hyperparameters under the names of a trial's fields; the number of layers has no field of its own
PARAMETERS: Mapping[str, tuple[float, float, bool, bool]] = {  # low, high, logarithmic, whole
    "batch_size": (16, 512, True, True),
    "optimizer.learning_rate": (1e-4, 1e-1, True, False),
    "optimizer.momentum": (0.1, 0.99, False, False),
    "optimizer.weight_decay": (1e-5, 1e-1, False, False),
    "patience": (1, 5, False, True),
    "model.head.feature_dim": (64, 1024, True, True),
    "model.head.dropout": (0.0, 0.999, False, False),
}


class Surrogate:
    """Learning curves of one task.

    Args:
        folder: `model.onnx`, `encoding.json` and `config_space.json` of LCBench.
        name: OpenML task.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._session = name, _session(folder)
        self._code = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"][name]
        rng = np.random.default_rng(0)
        unit = rng.random((2000, len(PARAMETERS)))
        scores = self._finals(unit)
        self.median, self.best = float(np.median(scores)), float(scores.max())
        for scale in np.geomspace(0.2, 0.01, 8):
            top = np.argsort(-scores)[:20]
            moved = unit[rng.choice(top, 300)] + scale * rng.normal(size=(300, len(PARAMETERS)))
            unit = np.concatenate([unit[top], moved.clip(0, 1)])
            scores = np.concatenate([scores[top], self._finals(moved.clip(0, 1))])
        self.optimum = float(scores.max())

    def curve(self, values: Sequence[float]) -> tuple[np.ndarray, float]:
        """Return the metric after each epoch [52] and the seconds of an epoch."""
        answer = self._ask(np.column_stack([np.arange(1, EPOCHS + 1), np.tile(values, (EPOCHS, 1))]))
        return answer[:, VALIDATION], max(1e-3, float(answer[-1, SECONDS]) / EPOCHS)

    def _finals(self, unit: np.ndarray) -> np.ndarray:
        columns = [np.full(len(unit), EPOCHS)]
        for at, (low, high, log, whole) in zip(unit.T, PARAMETERS.values(), strict=True):
            values = low * (high / low) ** at if log else low + (high - low) * at
            columns.append(np.rint(values) if whole else values)
        return self._ask(np.column_stack(columns))[:, VALIDATION]

    def _ask(self, rows: np.ndarray) -> np.ndarray:
        codes = np.full((len(rows), 1), self._code, np.int32)
        return self._session.run(None, {"x_cat": codes, "x_cont": rows.astype(np.float32)})[0].astype(float)


class MemoryJournal:
    """Counts proposals and forgets the rest: what a journal is to decisions."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def propose(self, *proposal: Any) -> int:
        return next(self._numbers)

    def report(self, *fact: Any) -> None:
        """Nothing: nobody resumes."""

    note = tell = report


class AnySampler(Proposer):
    """Our proposer around a sampler of Optuna's."""

    def __init__(self, space: Space, sampler: BaseSampler) -> None:
        super().__init__(space, "random", seed=0, maximize=True)
        self._sampler = sampler


class RaysSearch(AnySampler):
    """What Ray's OptunaSearch tells its sampler: every stopped trial is complete, with the last value it had."""

    def __init__(self, space: Space, sampler: BaseSampler, scheduler: RaysAsha) -> None:
        super().__init__(space, sampler)
        self._scheduler = scheduler

    def ended(self, number: int, value: float | Sequence[float] | None, *, infeasible: bool = False) -> None:
        super().ended(number, self._scheduler.last[number])


class RaysAsha(Scheduler):
    """Ray Tune's own asynchronous successive halving, rungs 2/6/18."""

    def __init__(self) -> None:
        self._bracket = _Bracket(2, EPOCHS, 3, 0)
        self.last: dict[int, float] = {}

    def report(self, number: int, epoch: int, score: float, league: str = "") -> bool:
        self.last[number] = score
        decision = self._bracket.on_result(SimpleNamespace(trial_id=number), epoch, score)
        return decision == "STOP" and epoch < EPOCHS


def rays_way(space: Space, seed: int, workers: int) -> tuple[Proposer, Scheduler]:
    scheduler = RaysAsha()
    return RaysSearch(space, TPESampler(seed=seed), scheduler), scheduler  # as OptunaSearch builds it


POLICIES: dict[str, Callable[[Space, int, int], tuple[Proposer, Scheduler]]] = {  # space, seed, workers
    "random": lambda space, seed, workers: (AnySampler(space, RandomSampler(seed)), Scheduler()),
    "TPE": lambda space, seed, workers: (AnySampler(space, TPESampler(seed=seed)), Scheduler()),
    "random + ASHA": lambda space, seed, workers: (AnySampler(space, RandomSampler(seed)), RaysAsha()),
    "Ray's own way": rays_way,
    "ours, rungs 4/12": lambda space, seed, workers: _ours(space, seed, workers, Asha(EPOCHS, grace=4)),
    "ours": lambda space, seed, workers: _ours(space, seed, workers, Asha(EPOCHS)),
}


@dataclass
class Outcome:
    """What a search found: (epochs spent by then, value) of every complete training."""

    found: list[tuple[int, float]] = field(default_factory=list)
    proposals: list[tuple[float, ...]] = field(default_factory=list)
    stopped: int = 0

    def best(self, epochs: float) -> float:
        return max((value for spent, value in self.found if spent <= epochs), default=-np.inf)


def search(
    task: Surrogate, policy: str, seed: int, *, workers: int, epochs: int, home: Path, journal: Journal | None = None
) -> Outcome:
    """Search until `epochs` are spent; `workers` train at once, each at the pace of its trial."""
    proposer, scheduler = POLICIES[policy](_space(), seed, workers)
    journal = journal or cast(Journal, MemoryJournal())
    store, outcome = StudyFolder(home), Outcome()
    controller = SearchController(
        store,
        journal,
        proposer,
        scheduler,
        TrialHistory(),
        metrics=[METRIC],
        limits=Limits(Budget(epochs), workers),
    )
    live: dict[int, tuple[np.ndarray, float]] = {}
    events: list[tuple[float, int, int]] = []  # (time, trial, epoch)
    now = 0.0
    for spent in range(1, epochs + 1):
        while (given := controller.next()) is not None:
            outcome.proposals.append(tuple(_value(given.config, path) for path in PARAMETERS))
            live[given.number] = task.curve(outcome.proposals[-1])
            store.trial_folder(given.number).mkdir(parents=True)
            controller.begun(given.number)
            heapq.heappush(events, (now + live[given.number][1], given.number, 1))
        controller.deliver()
        now, number, epoch = heapq.heappop(events)
        curve, pace = live[number]
        value = float(curve[epoch - 1])
        stop = controller.reported(number, epoch, {METRIC: value})
        if epoch < EPOCHS and not stop:
            heapq.heappush(events, (now + pace, number, epoch + 1))
            continue
        state = COMPLETE if epoch == EPOCHS else STOPPED
        write_record(store.trial_folder(number), {"state": state, "metrics": {METRIC: value}, "epochs": epoch})
        controller.ended(number)
        outcome.stopped += state == STOPPED
        if state == COMPLETE:
            outcome.found.append((spent, value))
    return outcome


def decides_alike_on_disk(task: Surrogate, home: Path) -> bool:
    """Whether a search with the real journal proposes and stops exactly as one with the journal in memory."""
    journal = Journal(home / "journal.log", "efficiency", maximize=True)
    epochs = 10 * EPOCHS
    on_disk = search(task, "ours", 0, workers=3, epochs=epochs, home=home / "disk", journal=journal)
    in_memory = search(task, "ours", 0, workers=3, epochs=epochs, home=home / "memory")
    return on_disk == in_memory and on_disk.stopped > 0


def compare(folder: Path, tasks: Sequence[str], seeds: int, workers: int, processes: int) -> dict[str, np.ndarray]:
    """Return {policy: regret [task, seed, epoch], then the same against the optimum} after every spent epoch."""
    jobs = [
        (folder, task, policy, 1000 * at + seed, workers)
        for policy in POLICIES
        for at, task in enumerate(tasks)
        for seed in range(seeds)
    ]
    with ProcessPoolExecutor(processes) as pool:
        curves = np.array(list(pool.map(_regrets, *zip(*jobs, strict=True), chunksize=4)))
    shaped = curves.reshape(len(POLICIES), len(tasks), seeds, 2, -1)
    return dict(zip(POLICIES, shaped, strict=True))


def epochs_until(regret: np.ndarray, level: float) -> float:
    """Return after how many epochs a mean regret [epoch] first reaches `level`; infinity where it never does."""
    reached = np.flatnonzero(regret <= level)
    return float(reached[0] + 1) if len(reached) else float("inf")


def main() -> int:
    """Search with every policy and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="the surrogate's files")
    parser.add_argument("--tasks", choices="AB", default="B", help="A: choices were made on these; B: on none of these")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4, help="trials at once; 1 is the sequential case")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="three tasks, one seed")
    given = parser.parse_args()
    if not (given.folder / "model.onnx").exists():
        print(f"skipped: no LCBench surrogate in {given.folder}")
        return 0
    began = time.monotonic()
    names = _tasks(given.folder)["AB".index(given.tasks) : 20 : 2][: 3 if given.quick else 10]
    with tempfile.TemporaryDirectory() as home:
        if not decides_alike_on_disk(Surrogate(given.folder, names[0]), Path(home)):
            print("the journal on disk and the one in memory lead to different searches")
            return 1
    seeds = 1 if given.quick else given.seeds
    regrets = compare(given.folder, names, seeds, given.workers, given.processes)
    print(f"tasks {given.tasks}: {' '.join(names)}; {seeds} seeds, {given.workers} at once")
    _print_table(regrets)
    print(f"{time.monotonic() - began:.0f} s")
    ours, other = (regrets[policy][:, :, 0, -1].mean() for policy in ("ours", "random + ASHA"))
    return int(not given.quick and (ours > GOAL or ours > other))


def _print_table(regrets: Mapping[str, np.ndarray]) -> None:
    header = "".join(f"{f'@{budget}':>7}" for budget in BUDGETS)
    print(f"{'':<20}{header}{'strict@50':>12}{'se':>7}{'fewer epochs than random':>26}{'worst task':>12}")
    level = regrets["random"][:, :, 1].mean((0, 1))[-1]
    for policy, curves in regrets.items():
        mean, strict = curves.mean((0, 1))
        cells = "".join(f"{mean[budget * EPOCHS - 1]:7.3f}" for budget in BUDGETS)
        error = curves[:, :, 0, -1].mean(1).std(ddof=1) / len(curves) ** 0.5
        until = epochs_until(strict, level)
        fewer = "never" if np.isinf(until) else f"{BUDGETS[-1] * EPOCHS / until:.1f}x"
        worst = curves[:, :, 0, -1].mean(1).max()
        print(f"{policy:<20}{cells}{strict[-1]:12.3f}{error:7.3f}{fewer:>26}{worst:12.3f}")


def _regrets(folder: Path, name: str, policy: str, seed: int, workers: int) -> np.ndarray:
    """Return the regret, and the strict one, after every spent epoch [2, epoch] of one search."""
    _quicken()
    task, epochs = _surrogate(folder, name), BUDGETS[-1] * EPOCHS
    with tempfile.TemporaryDirectory() as home:
        outcome = search(task, policy, seed, workers=workers, epochs=epochs, home=Path(home))
    best = np.array([max(outcome.best(spent), task.median) for spent in range(1, epochs + 1)])
    usual = np.maximum(0, (task.best - best) / (task.best - task.median))
    return np.stack([usual, (task.optimum - best) / (task.optimum - task.median)])


def _quicken() -> None:
    """Let Optuna compute normal tails by array: the same numbers, in a third of the time."""
    from optuna.samplers._tpe import _truncnorm

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _truncnorm._log_ndtr = scipy.special.log_ndtr


def _ours(space: Space, seed: int, workers: int, scheduler: Scheduler) -> tuple[Proposer, Scheduler]:
    share = explored(scheduler, workers)
    return Proposer(space, "tpe", seed=seed, maximize=True, explored=share), scheduler


def _value(config: Mapping[str, Any], path: str) -> float:
    value: Any = config
    for key in path.split("."):
        value = value[key]
    return float(value)


@cache
def _space() -> Space:
    values: dict[str, Any] = {"dataset": "synthetic", "epochs": EPOCHS}
    for path, (low, high, log, _) in PARAMETERS.items():
        *groups, key = path.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[key] = {"low": low, "high": high, "log": log}
    return read_space(values, "lcbench")


def _tasks(folder: Path) -> list[str]:
    space = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
    return next(parameter["choices"] for parameter in space if parameter["name"] == "OpenML_task_id")


_surrogate = cache(Surrogate)


@cache
def _session(folder: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), options)


if __name__ == "__main__":
    sys.exit(main())
