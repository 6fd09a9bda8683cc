"""A training that does not fit is made to fit, and means the same; one that cannot is infeasible, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histotune.core.config import TrialConfig
from histotune.data.splits import TrainingData
from histotune.errors import TrialFailed
from histotune.models.losses import LOSSES
from histotune.storage.study_folder import COMPLETE, FAILED
from histotune.training import memory
from histotune.training.loop import _backward, run_trial, train_epoch
from histotune.training.memory import INFEASIBLE, OUT_OF_MEMORY, Need, verdict
from histotune.training.session import Session, start

NORMED: dict[str, Any] = {"model": {"branches": {"image": {"backbone": {"name": "alexnet", "batch_norm": True}}}}}


def session_of(data: TrainingData, micro: int | None = None, **changes: Any) -> Session:
    session = start(TrialConfig.from_dict({"epochs": 2, "batch_size": 16, **changes}), data, torch.device("cpu"))
    session.micro_batch = micro or session.micro_batch
    return session


def gradients(session: Session, cases: int) -> tuple[float, list[torch.Tensor]]:
    """Return loss and gradients of a batch in float64, where the order of a sum hardly matters."""
    session.model.double().train()
    session.autocast = None
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(cases, 3, 32, 32)))
    labels = torch.from_numpy(rng.integers(0, 2, size=cases))
    loss = _backward(session, {"image": images}, {"image": torch.ones(cases, dtype=torch.bool)}, labels)
    return loss.item(), [p.grad for p in session.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("loss", [{"name": name} for name in LOSSES.names()] + [{"name": "focal", "beta": 0.99}])
@pytest.mark.parametrize("micro", [1, 3, 8, 15])
def test_micro_batches_add_up_to_the_batch(small_data: TrainingData, loss: dict[str, Any], micro: int) -> None:
    whole = gradients(session_of(small_data, loss=loss), 16)
    parts = gradients(session_of(small_data, micro, loss=loss), 16)
    assert parts[0] == pytest.approx(whole[0], rel=1e-9)
    for one, other in zip(parts[1], whole[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_an_epoch_in_micro_batches_ends_near_one_without(small_data: TrainingData) -> None:
    whole, parts = session_of(small_data, precision="float32"), session_of(small_data, 3, precision="float32")
    assert train_epoch(parts, 1) == pytest.approx(train_epoch(whole, 1), rel=1e-4)


@pytest.mark.parametrize("cases", [2, 3, 5, 16, 17])
def test_batch_norm_never_sees_a_single_case(small_data: TrainingData, cases: int) -> None:
    session = session_of(small_data, 2, **NORMED)
    seen: list[int] = []
    session.model.branches["image"].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    gradients(session, cases)
    assert session.least == 2
    assert sum(seen) == cases
    assert min(seen) >= 2


def test_measuring_the_need_changes_nothing(small_data: TrainingData) -> None:
    session = session_of(small_data, **NORMED)
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    state = torch.get_rng_state()
    memory.need(session)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in session.model.state_dict().items())
    assert all(p.grad is None for p in session.model.parameters())


def test_the_need_follows_width_and_optimiser(small_data: TrainingData) -> None:
    def of(width: int, **changes: Any) -> Need:
        model = {"branches": {"image": {"backbone": {"name": "alexnet", "width": width}}}}
        return memory.need(session_of(small_data, model=model, **changes))

    narrow, wide = of(16), of(32)
    assert 1.5 * narrow.per_case < wide.per_case < 2.5 * narrow.per_case
    assert wide.per_case > 32 * 32 * 32 * 4 / 4, "at least one activation of the first layer after pooling"
    assert of(32, optimizer={"name": "sgd", "momentum": 0.0}).fixed < wide.fixed


def test_a_plan_halves_until_it_fits(small_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(small_data)
    needed = memory.need(session)
    for micro in (16, 8, 4, 1):
        monkeypatch.setattr(memory, "limit", lambda device, share, m=micro: memory.MARGIN * needed.of(m) + 1)
        assert memory.plan(session, tmp_path) == micro
    monkeypatch.setattr(memory, "limit", lambda device, share: needed.of(1) - 1)
    with pytest.raises(TrialFailed, match=r"with 1 case.* needs at least .* MB more memory") as caught:
        memory.plan(session, tmp_path)
    assert caught.value.kind == INFEASIBLE


def test_only_a_failure_of_memory_halves_and_not_for_ever(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(json.dumps({"micro_batch": 16, "least_micro_batch": 2, "seed": 3}))
    for kind in ("nan_loss", "error", "bad_data", "killed", "hung", "disk_full"):
        failure = TrialFailed(kind, "made-up")
        assert verdict(tmp_path, failure) is failure
    sizes = []
    while (result := verdict(tmp_path, TrialFailed(OUT_OF_MEMORY, "made-up"))) is None:
        sizes.append(json.loads((tmp_path / "environment.json").read_text())["micro_batch"])
    assert sizes == [8, 4, 2]
    assert result.kind == INFEASIBLE
    assert "2 case(s) at a time: made-up" in result.reason
    assert json.loads((tmp_path / "environment.json").read_text())["seed"] == 3


@pytest.mark.parametrize(("fits", "state"), [(5, COMPLETE), (1, COMPLETE), (0, FAILED)])
def test_a_training_that_runs_out_of_memory_goes_on_in_smaller_pieces(
    small_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, state: str
) -> None:
    real, calls = Session.loss, 0

    def loss(self: Session, inputs: Any, present: Any, labels: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if len(labels) > fits and calls > 3:
            raise torch.OutOfMemoryError("made-up")  # in a later step, as fragmented memory does
        return real(self, inputs, present, labels)

    if fits == 0:
        monkeypatch.setattr(Session, "loss", lambda *arguments: torch.empty(2**50))
    else:
        monkeypatch.setattr(Session, "loss", loss)
    record = run_trial(TrialConfig(epochs=2, batch_size=16), small_data, tmp_path)
    assert record.state == state
    if state == COMPLETE:
        assert json.loads((tmp_path / "environment.json").read_text())["micro_batch"] == {5: 4, 1: 1}[fits]
        assert [row["epoch"] for row in record.curve()] == [1, 2]
    else:
        assert record.kind == INFEASIBLE


def test_a_container_with_less_memory_than_its_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    machine = memory.total_memory()
    for bound, expected in ((str(2**28), 2**28), ("max", machine), (str(2**60), machine)):
        (tmp_path / "memory.max").write_text(f"{bound}\n")
        assert memory.total_memory() == expected


def test_there_is_memory_on_this_machine() -> None:
    assert 2**28 < memory.total_memory() < 2**46
    assert 0 < memory.limit(torch.device("cpu"), 0.5) < memory.limit(torch.device("cpu"), 1.0)
    assert memory.oom_kills() >= 0
