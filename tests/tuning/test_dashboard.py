"""optuna-dashboard opens a study's journal as it is: a person who knows it needs no export."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from histotune.core.config import TrialConfig
from histotune.space import read_space
from histotune.storage.records import TrialEnd, TrialRecord
from histotune.storage.study_folder import COMPLETE, FAILED, STOPPED
from histotune.tuning.journal import CONFIG, DIGEST, Journal
from histotune.tuning.proposer import Proposer

STATES = (COMPLETE, STOPPED, COMPLETE, FAILED, COMPLETE)
SPACE = read_space(
    {
        "dataset": "synthetic",
        "loss": {"choice": ["cross_entropy", "focal"]},
        "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    },
    "tests",
)

if importlib.util.find_spec("optuna_dashboard") is None:
    pytest.skip("optuna-dashboard is not installed; it comes with the test extra", allow_module_level=True)


def write(path: Path, others: list[bool]) -> None:
    """Write a journal by the search's own parts: five ended trials and one that runs."""
    journal = Journal(path, "tests", maximize=True, others=others)
    proposer = Proposer(SPACE, "tpe", seed=0, maximize=True, others=others)
    seen: set[str] = set()
    for number, state in enumerate([*STATES, ""]):
        proposal = proposer.propose(seen.__contains__)
        assert proposal is not None
        seen.add(proposal.digest)
        attributes = {CONFIG: TrialConfig.from_dict(proposal.config).to_dict(), DIGEST: proposal.digest}
        assert journal.propose(proposal.params, proposal.distributions, attributes) == number
        for epoch in (1, 2):
            journal.report(number, epoch, 0.5 + number / 10)
        if state:
            values = [0.5 + number / 10, *(10.0 * number for _ in others)]
            journal.tell(
                TrialRecord(number, TrialEnd(state), path.parent, epochs=2),
                values if state == COMPLETE else None,
                number,
            )


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.fixture(params=[0, 1], ids=["one metric", "two metrics"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Address of a dashboard on loopback, and how many further metrics its study has."""
    path = tmp_path / "journal.log"
    write(path, [False] * request.param)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [str(program), str(path), "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(600):
                try:
                    ask(f"http://127.0.0.1:{port}/api/studies")
                    break
                except urllib.error.URLError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/api/studies", request.param
        finally:
            process.terminate()


def test_the_dashboard_shows_what_the_journal_holds(served: tuple[str, int]) -> None:
    address, others = served
    (summary,) = ask(address)["study_summaries"]
    assert summary["study_name"] == "tests"
    result = ask(f"{address}/{summary['study_id']}")
    assert result["directions"] == ["maximize", *["minimize"] * others]
    trials = result["trials"]
    assert Counter(trial["state"] for trial in trials) == {"Complete": 3, "Fail": 2, "Running": 1}
    assert [trial["number"] for trial in trials] == list(range(6))
    for trial in trials:
        values = [0.5 + trial["number"] / 10, *(10.0 * trial["number"] for _ in range(others))]
        assert trial.get("values") == (pytest.approx(values) if trial["state"] == "Complete" else None)
        assert [row["step"] for row in trial["intermediate_values"]] == [1, 2]
