"""Interrupts jobs at random times, runs them again, and compares the results with those of uninterrupted runs.

    python -m tests.app.campaign --kills 100 --signals 40

Every trial starts a job in a new folder, interrupts it after a random time, looks for partial files, runs the same job
again until it ends, and compares the result with the reference. The exit status is 1 if any trial differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from ..conftest import ROOT, TINY

EXPECTED = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
TIMES = ("decoder_s", "peak_mib", "render_s", "dense_render_s")


@dataclass(frozen=True)
class Job:
    """A kind of job.

    Attributes:
        name: name of the job.
        command: returns the overrides of the job in a folder; called again for the second run.
        outcome: returns the result of the job in a folder, comparable by ``==``.
    """

    name: str
    command: Callable[[Path], list[str]]
    outcome: Callable[[Path], Any]


def fit(folder: Path) -> list[str]:
    resume = ["ckpt_path=last"] if list(folder.glob("runs/fit/*/checkpoints/last.ckpt")) else []
    return [*TINY, "name=fit", "schedule.iterations=12", "schedule.save_every=3", *resume]


def weights(folder: Path) -> dict[str, Any]:
    newest = max(folder.glob("runs/fit/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    state = torch.load(newest, weights_only=True)
    best = torch.load(newest.with_name("best.ckpt"), weights_only=True)
    names = {**{f"last {k}": v for k, v in state["state_dict"].items()},
             **{f"best {k}": v for k, v in best["state_dict"].items()}}  # fmt: skip
    return {"steps": state["global_step"], **{k: v.numpy().tobytes() for k, v in names.items()}}


def upscale(folder: Path) -> list[str]:
    return ["task=upscale", f"input={folder}/photos", "scale=3", f"output={folder}/out", "ckpt_path=lm_liif_edsr",
            "trainer.accelerator=cpu"]  # fmt: skip


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}


def calibrate(folder: Path) -> list[str]:
    return ["task=calibrate", "ckpt_path=lm_liif_edsr", f"input={folder}/photos", f"output={folder}/tables.yaml",
            "scales=[6]", "crop=48", "trainer.accelerator=cpu"]  # fmt: skip


def export(folder: Path) -> list[str]:
    return ["task=export", "ckpt_path=lm_liif_edsr", f"output={folder}/model.safetensors"]


def exported(folder: Path) -> Any:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return (folder / "model.safetensors").read_bytes(), json.loads(file.metadata()["lmf"])


def sweep(folder: Path) -> list[str]:
    return ["-m", *TINY, "name=sweep", "seed=0,1", "schedule.iterations=3", "task.test=true", "data.limit=1",
            "data.crop=48", "data.scales=[2]"]  # fmt: skip


def rows(folder: Path) -> list[dict[str, str]]:
    (table,) = folder.glob("runs/sweep/sweep-*/sweep.csv")
    with table.open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


JOBS = (
    Job("fit", fit, weights),
    Job("upscale", upscale, pictures),
    Job("calibrate", calibrate, lambda folder: (folder / "tables.yaml").read_text()),
    Job("export", export, exported),
    Job("sweep", sweep, rows),
)


def start(job: Job, folder: Path) -> subprocess.Popen[bytes]:
    options = job.command(folder)
    flags = [o for o in options if o.startswith("-")]
    rest = [o for o in options if not o.startswith("-")]
    command = [sys.executable, str(ROOT / "run.py"), *flags, f"paths.runs={folder}/runs", *rest]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def prepare(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        small = Image.fromarray(rng.integers(0, 256, (12, 12 + i, 3), dtype=np.uint8))
        small.resize((72 + 6 * i, 72), Image.Resampling.BICUBIC).save(folder / "photos" / f"{i}.png")
    return folder


def leftovers(folder: Path) -> list[str]:
    """Return temporary files that the second run should have removed."""
    found = [p.relative_to(folder) for p in folder.rglob(".*") if ".tmp" in p.name]
    return [str(p) for p in found if p.parts[:2] != ("runs", "fit")]  # runs without a checkpoint are not resumed


def trial(job: Job, number: Any, sent: signal.Signals, delay: float, folder: Path) -> str | None:
    """Interrupt a job, run it again and compare the results; return what went wrong, or None."""
    prepare(folder)
    process = start(job, folder)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(sent)
    status = process.wait(120)
    if status not in (0, EXPECTED[sent]) and status != -sent:
        return f"exit status {status} after {sent.name}"
    if start(job, folder).wait(240):
        return "the second run failed: " + (folder / "log").read_text()[-400:]
    if job.outcome(folder) != number:
        return "another outcome"
    if left := leftovers(folder):
        return f"left behind {left}"
    shutil.rmtree(folder)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--jobs", nargs="*", default=[job.name for job in JOBS])
    options = parser.parse_args(arguments)
    root, rng = Path(tempfile.mkdtemp(prefix="campaign-")), random.Random(options.seed)
    jobs = [job for job in JOBS if job.name in options.jobs]
    references, durations = {}, {}
    for job in jobs:
        folder, began = prepare(root / f"reference-{job.name}"), time.monotonic()
        if start(job, folder).wait():
            print((folder / "log").read_text()[-1000:])
            return 1
        references[job.name], durations[job.name] = job.outcome(folder), time.monotonic() - began
        print(f"{job.name}: {durations[job.name]:.1f} s", flush=True)
    trials = [(jobs[i % len(jobs)], signal.SIGKILL) for i in range(options.kills)]
    trials += [
        (jobs[i % len(jobs)], (signal.SIGTERM, signal.SIGINT)[i // len(jobs) % 2]) for i in range(options.signals)
    ]
    delays = [rng.uniform(0.1, 1.5) * durations[job.name] for job, _ in trials]

    def run(i: int) -> str | None:
        job, sent = trials[i]
        found = trial(job, references[job.name], sent, delays[i], root / f"{i:03d}-{job.name}")
        print(
            f"{i:3d} {job.name:9s} {sent.name:7s} after {delays[i]:5.1f} s: {found or 'as if never stopped'}",
            flush=True,
        )
        return found

    with ThreadPoolExecutor(options.parallel) as pool:
        failed = sum(found is not None for found in pool.map(run, range(len(trials))))
    print(f"{len(trials) - failed} of {len(trials)}")
    if not failed:
        shutil.rmtree(root)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
