"""How long `histotune evaluate` of a five-member ensemble takes: on the official IDC test patients, and on all others.

Searches `idc` in the data's own folder layout, merges five trials, exports them, and evaluates as a user does: on the
sealed test set (twice, since an opening only adds a line to the record) and on an external cohort, which is the patches
of the patients that the published lists leave out. Nothing is asserted: seconds depend on the machine.

    python tests/benchmarks/evaluate_speed.py ../shared/data/idc_patches --keep idc-five
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from histotune.ingest.datasets.idc import official_patients

MEMBERS, SIDE = 5, 50


def histotune(*words: str | Path, home: Path, threads: int) -> str:
    """Run a command as a user does; return what it took."""
    line = [sys.executable, "-m", "histotune", *map(str, words)]
    places = {"HISTOTUNE_RUNS": str(home / "runs"), "HISTOTUNE_CACHE": str(home / "cache")}
    limits = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(line, env=os.environ | places | limits, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{done.stderr}")
    waited, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{waited:.1f} s, of the processor {computed:.1f} s"


def write_manifest(data: Path, path: Path) -> int:
    """List the whole patches of patients in no published list; return how many."""
    index = pd.read_csv(data / "index.csv", dtype={"patient": str})
    listed = {patient for patients in official_patients().values() for patient in patients}
    rest = index[~index["patient"].isin(listed) & (index["width"] == SIDE) & (index["height"] == SIDE)]
    files = [str((data / file).absolute()) for file in rest["file"]]
    labels = rest["label"].map({0: "negative", 1: "positive"})  # as the data set idc calls them
    rest.assign(path=files, label=labels)[["path", "label", "patient"]].to_csv(path, index=False)
    return len(rest)


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="Folder of the IDC patches, with index.csv.")
    parser.add_argument("--keep", type=Path, help="Folder for the study, kept; used again when it is there.")
    parser.add_argument("--threads", type=int, default=0, help="Threads of a command; by default all.")
    parser.add_argument("--repeats", type=int, default=2, help="How often each is timed.")
    given = parser.parse_args()
    home = given.keep or Path(tempfile.mkdtemp())
    home.mkdir(parents=True, exist_ok=True)
    five, manifest, data = home / "five", home / "external.csv", given.data.absolute()
    how = {"home": home.absolute(), "threads": given.threads}
    if not five.exists():
        search = ("--trials", str(MEMBERS), "--fix", "epochs=2", "--scheduler", "none", "--split", "official_patient")
        print("search:", histotune("search", "idc", "--data", data, *search, **how))
        merge = ("--top", str(MEMBERS), "--strategy", "average", "--export", five.absolute())
        print("ensemble:", histotune("ensemble", "idc", *merge, **how))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    for _ in range(given.repeats):
        print("evaluate, sealed test set:", histotune("evaluate", five.absolute(), "--data", data, **how))
    cases = write_manifest(data, manifest)
    external = ("--on", "image_folder", "--data", manifest.absolute())
    for _ in range(given.repeats):
        print(f"evaluate, external cohort of {cases}:", histotune("evaluate", five.absolute(), *external, **how))
    if given.keep is None:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
