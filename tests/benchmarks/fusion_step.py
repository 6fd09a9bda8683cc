"""Time of a whole training step with each fusion against the step with `concat`, with the same branches, in one run.

    python tests/benchmarks/fusion_step.py [--branches small large] [--batch 64] [--rounds 25] [--device cpu]

`small` are the default branches and fusions of the space `idc_cmaf` at 32 px, `large` a ResNet-18 with a small stem
and a ViT-Tiny with patches of 8 px at 64 px, with the fusions as they are by default. `step_timer.py` says how is
timed. On one thread of a CPU, batch 64, cmaf takes 1.106 times the step of concat with the small branches, and 1.073
times with the large ones (cross_attention 1.041, mean_embedding 1.003, concat again .988; five rounds).

Exits with 1 when `cmaf` takes more than 1.15 times the step of concat.
"""

from __future__ import annotations

import sys
from typing import Any

import step_timer

from histotune.core.config import TrialConfig
from histotune.models.fusions import FUSIONS
from histotune.space import load_space

MOST = 1.15
JUDGED, YARDSTICK = "cmaf", "concat"
LARGE: dict[str, Any] = {
    "image_size": 64,
    "model": {
        "branches": {
            "cnn": {"backbone": {"name": "timm/resnet18", "small_stem": True}},
            "transformer": {"backbone": {"name": "timm/vit_tiny_patch16_224", "patch_size": 8}},
        }
    },
}


def main() -> int:
    """Time all fusions and print the table."""
    parser = step_timer.options(__doc__.partition("\n")[0], batch=64)
    parser.add_argument("--branches", choices=["small", "large"], nargs="+", default=["small", "large"])
    asked = parser.parse_args()
    step_timer.begin(asked)
    names = [name for name in FUSIONS.names() if name != "none"]
    slow = False
    for branches in asked.branches:
        configs = {name: configuration(branches, name) for name in names}
        ratios = step_timer.compare(f"{branches} branches", configs, YARDSTICK, (300, 100), asked)
        slow |= ratios[JUDGED] > MOST
    return int(slow)


def configuration(branches: str, fusion: str) -> TrialConfig:
    """Return the configuration of a fusion over small or large branches."""
    if branches == "large":
        return TrialConfig.from_dict({**LARGE, "model": {**LARGE["model"], "fusion": fusion}})
    return TrialConfig.from_dict(
        load_space("idc_cmaf", fix=[f"model.fusion={fusion}", "model.redundancy=none"]).default()
    )


if __name__ == "__main__":
    sys.exit(main())
