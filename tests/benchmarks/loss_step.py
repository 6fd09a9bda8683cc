"""Time of a whole training step with each loss against the step with cross-entropy, in one run.

    python tests/benchmarks/loss_step.py [--classes 2 9] [--batch 512] [--rounds 25] [--device cpu] [--threads 1]

Images of 32 px go through `alexnet`; `step_timer.py` says how is timed.

Exits with 1 when a loss takes more than 1.05 times the step of cross-entropy.
"""

from __future__ import annotations

import sys

import step_timer

from histotune.core.config import TrialConfig
from histotune.models.losses import LOSSES

MOST = 1.05
YARDSTICK = "cross_entropy"


def main() -> int:
    """Time all losses and print the table."""
    parser = step_timer.options(__doc__.partition("\n")[0], batch=512)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 9])
    asked = parser.parse_args()
    step_timer.begin(asked)
    configs = {name: TrialConfig.from_dict({"loss": name, "image_size": 32}) for name in LOSSES.names()}
    ratios: list[float] = []
    for classes in asked.classes:
        counts = [100 * (k + 1) for k in range(classes)]
        ratios += step_timer.compare(f"{classes} classes", configs, YARDSTICK, counts, asked).values()
    return int(max(ratios) > MOST)


if __name__ == "__main__":
    sys.exit(main())
