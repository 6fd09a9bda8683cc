"""Jobs in worker processes: each is done once and heard of, errors come back as they are, a dead worker is replaced."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from histotune.errors import ConfigError, DataError
from histotune.tuning.events import Resources
from histotune.tuning.ray_cluster import _folder, _mark, _marked
from histotune.tuning.ray_pool import Died, WorkerPool, workers

HALF = Resources(cpus_per_trial=0.5, gpus_per_trial=0, max_concurrent=2)


def answered(number: int, share: float) -> dict[str, Any]:
    """Say who did the job, and with what."""
    return {"square": number**2, "process": os.getpid(), "threads": torch.get_num_threads(), "share": share}


def fragile(number: int, tries: Path, share: float) -> int:
    """Do the job at the third attempt; number 0 never."""
    with (tries / str(number)).open("a") as file:
        file.write("x")
    if number == 0 or len((tries / str(number)).read_text()) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refused(number: int, share: float) -> int:
    """Find fault with job 2."""
    if number == 2:
        raise DataError(f"job {number} cannot be done: mend it")
    time.sleep(0.01)
    return number


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    """Two workers; of which nothing is left in the end."""
    owner = tmp_path_factory.mktemp("owner")
    with workers(owner, HALF, address=None, plugins=[]) as pool:
        yield pool
    assert not _marked(_mark(owner))
    assert not _folder(_mark(owner)).exists()


def jobs(numbers: range, drawn: list[int]) -> Iterator[Mapping[str, Any]]:
    for number in numbers:
        drawn.append(number)
        yield {"number": number}


def test_every_job_is_done_once_and_drawn_when_a_worker_is_free(pool: WorkerPool) -> None:
    drawn: list[int] = []
    result, running = {}, []
    for job, answer in pool.run(answered, jobs(range(7), drawn)):
        result[job["number"]] = answer
        running.append(len(drawn) - len(result))
    assert {number: answer["square"] for number, answer in result.items()} == {n: n**2 for n in range(7)}
    assert max(running) == 1, "with one heard of, the other is still out, and nothing was drawn ahead"
    assert os.getpid() not in {answer["process"] for answer in result.values()}
    assert {answer["threads"] for answer in result.values()} == {1}
    assert {answer["share"] for answer in result.values()} == {0.5}, "of the memory of one CPU"


def test_an_error_comes_back_as_it_is(pool: WorkerPool) -> None:
    with pytest.raises(DataError, match=r"^job 2 cannot be done: mend it$"):
        list(pool.run(refused, jobs(range(5), [])))


def test_a_job_whose_worker_dies_starts_again_and_in_the_end_is_given_up(pool: WorkerPool, tmp_path: Path) -> None:
    wanted = ({"number": number, "tries": tmp_path} for number in range(3))
    result = {job["number"]: answer for job, answer in pool.run(fragile, wanted)}
    assert result[1] == 1
    assert result[2] == 2
    assert isinstance(result[0], Died)
    assert "its worker died 3 times, the last time:" in result[0].reason
    assert {path.name: len(path.read_text()) for path in tmp_path.iterdir()} == {"0": 3, "1": 3, "2": 3}


def test_a_signal_ends_the_waiting(pool: WorkerPool) -> None:
    drawn: list[int] = []
    pool.signals.received.append(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(pool.run(refused, jobs(range(100), drawn)))
    finally:
        pool.signals.received.clear()
    assert len(drawn) <= 3


def test_more_than_there_is_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="4096 CPUs per trial requested"),
        workers(tmp_path, Resources(4096), address=None, plugins=[]),
    ):
        pass
