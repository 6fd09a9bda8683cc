"""What the linear controls reach on TCGA-BRCA, on the patients who have image features, genes and copy number.

Macro one-vs-rest AUROC and balanced accuracy of each fold, mean and standard deviation over folds and seeds; folds by
patient are scikit-learn's, so that they owe nothing to histotune's own.

    python tests/benchmarks/linear_baselines.py FOLDER [--target pam50|ihc] [--every-patient] [--strength C]
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from histotune.data.cohort import Cohort, read_labels
from histotune.data.splits import TrainingData
from histotune.ingest.datasets import DATASETS
from histotune.ingest.prepare import prepare
from histotune.metrics.scores import softmax
from histotune.studies import controls

FOLDS, SEEDS = 5, (0, 1, 2)
COMPLETE = ("image", "rna", "cnv", "mutations")  # whom the published baselines count
ARMS = (
    ("image",),
    ("cnv",),
    ("clinical",),
    ("mutations",),
    ("rna",),
    ("image", "cnv"),
    ("image", "cnv", "clinical"),
    ("image", "rna", "cnv", "mutations", "clinical"),
)


def measure(cohort: Cohort, labels: np.ndarray, rows: np.ndarray, arm: tuple[str, ...]) -> np.ndarray:
    """Return AUROC and balanced accuracy of every fold of every seed, [seeds * folds, 2]."""
    name = f"linear_{arm[0] if len(arm) == 1 else 'joined'}"
    patients = cohort.table["patient"].to_numpy(str)
    result = []
    for seed in SEEDS:
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(rows, labels[rows], patients[rows])
        for train, val in folds:
            data = TrainingData(
                {name: cohort.arrays[name] for name in arm},
                {name: cohort.present[name] for name in arm},
                labels,
                cohort.table["id"].to_numpy(str),
                patients,
                rows[train],
                rows[val],
                cohort.classes,
                kinds={name: cohort.kinds[name] for name in arm},
            )
            probabilities, truth = softmax(controls.predict_control(name, data, data.val)), labels[data.val]
            auroc = roc_auc_score(truth, probabilities, multi_class="ovr")
            result.append((auroc, balanced_accuracy_score(truth, probabilities.argmax(axis=1))))
    return np.array(result)


def main() -> None:
    """Print a line per target and arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", choices=["pam50", "ihc"], action="append")
    parser.add_argument("--every-patient", action="store_true", help="not only those who have everything")
    parser.add_argument("--strength", type=float, default=controls.STRENGTH, help="C of the logistic regression")
    asked = parser.parse_args()
    controls.STRENGTH = asked.strength
    print(f"{'target':8}{'arm':36}{'n':>5}  AUROC          BAC    AUROC's sd over seeds' means")
    with tempfile.TemporaryDirectory() as cache:
        for target, arm in product(asked.target or ["pam50", "ihc"], ARMS):
            cohort = prepare(DATASETS.build("tcga_brca", target=target), asked.folder, image_size=16, cache=Path(cache))
            needed = np.all([cohort.present[name] for name in COMPLETE], axis=0)
            rows = np.arange(len(cohort)) if asked.every_patient else np.flatnonzero(needed)
            result = measure(cohort, read_labels(cohort), rows, arm)
            mean, spread = result.mean(axis=0), result[:, 0].std(ddof=1)
            seeds = result[:, 0].reshape(len(SEEDS), FOLDS).mean(axis=1).std(ddof=1)
            print(
                f"{target:8}{'+'.join(arm):36}{len(rows):5}  {mean[0]:.3f} ± {spread:.3f}  {mean[1]:.3f}  {seeds:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
