"""Seeds, precision, environment, and torchvision beside a CPU build of torch."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.core import runtime

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_one_seed_gives_one_stream_everywhere() -> None:
    draws = []
    for _ in range(2):
        runtime.seed_everything(5)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_set(threads: int) -> None:
    before = torch.get_num_threads()
    runtime.set_threads(threads)
    assert torch.get_num_threads() == threads
    runtime.set_threads(before)


@pytest.mark.parametrize(
    ("precision", "dense", "instructions", "expected"),
    [
        ("float32", True, True, None),
        ("bfloat16", False, False, torch.bfloat16),
        ("auto", True, True, torch.bfloat16),
        ("auto", True, False, None),
        ("auto", False, True, None),
    ],
)
def test_precision_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, precision: str, dense: bool, instructions: bool, expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(runtime, "_cpu_has_bfloat16", lambda: instructions)
    assert runtime.autocast_dtype(precision, CPU, dense=dense) == expected


def test_precision_auto_on_a_gpu_follows_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert runtime.autocast_dtype("auto", GPU, dense=False) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert runtime.autocast_dtype("auto", GPU, dense=False) is None


def test_environment_is_json_and_names_what_matters() -> None:
    text = json.loads(json.dumps(runtime.environment()))
    assert text["packages"]["torch"] == torch.__version__
    assert {"histotune", "git_commit", "python", "platform", "cpus", "gpu"} <= set(text)


def test_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in runtime._SILENT:
        monkeypatch.setenv(name, "unset")
    runtime.disable_telemetry()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_runtime_is_light() -> None:
    assert (
        python("import sys, histotune.core.runtime; print('torch' in sys.modules, 'numpy' in sys.modules)")
        == "False False"
    )


def test_timm_and_torchvision_import_beside_any_torch() -> None:
    code = (
        "from histotune.models.backbones._torchvision import import_timm; import_timm(); "
        "import torchvision; print(len(torchvision.__version__) > 0)"
    )
    assert python(code) == "True"


def test_importing_histotune_changes_nothing_of_how_python_imports() -> None:
    assert (
        python("import sys; before = list(sys.meta_path); import histotune; print(sys.meta_path == before)") == "True"
    )


def test_importing_histotune_imports_no_torch_and_is_quick() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import histotune; "
        "print('torch' in sys.modules, time.perf_counter() - t < 0.2)"
    )
    assert python(code) == "False True"


def test_a_working_extension_is_left_alone(tmp_path: object) -> None:
    code = (
        "import torch; from pathlib import Path; from histotune.models.backbones import _torchvision as t; "
        "torch.ops.load_library = lambda path: None; "
        "folder = Path({!r}); (folder / '_C.so').touch(); print(t.declare_missing_operators([folder]))"
    )
    assert python(code.format(str(tmp_path))) == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="where Linux keeps caches")
def test_the_cache_lies_where_it_is_named_else_where_the_system_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("HISTOTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert runtime.Places.of().cache == tmp_path / ".cache" / "histotune"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert runtime.Places.of().cache == tmp_path / "xdg" / "histotune"
    monkeypatch.setenv("HISTOTUNE_CACHE", "~/own")
    assert runtime.Places.of().cache == tmp_path / "own"
    assert runtime.Places.of(cache="~/given").cache == tmp_path / "given"
