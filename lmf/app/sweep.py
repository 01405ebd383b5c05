"""Multiruns: collects the results of all jobs into one table and plot, and skips jobs that have finished.

Hydra gives every job a numbered folder inside the folder of the sweep. When a job ends, `SweepCallback` writes its
outcome there. The same command does not repeat a job that succeeded unless its identity has changed (see
`lmf.app.identity`).
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from lmf.app.identity import identity
from lmf.app.overrides import split
from lmf.app.runs import SWEEP_DIR, python_path
from lmf.errors import one_line
from lmf.io.csv import csv_text
from lmf.io.files import replacing, write_text
from lmf.training.results import Result, Results, console, format_value

log = logging.getLogger(__name__)

NOTE = "job.json"
ATTEMPT, ATTEMPTS = "LMF_SWEEP_ATTEMPT", 3
FIGURES = (
    "set",
    "scale",
    "psnr",
    "bicubic_psnr",
    "decoder_gmacs",
    "decoder_s",
    "dense_psnr",
    "psnr_vs_dense",
    "least_psnr_vs_dense",
    "rendered_share",
    "render_s",
    "dense_render_s",
)


class SweepCallback(Callback):
    """Updates ``sweep.csv`` and ``pareto.png`` after every job of a multirun and prints the table at the end.

    Attributes:
        identity: of the current job when it started.
    """

    identity: str

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Publish the folder of the sweep and register the final table."""
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        os.environ[SWEEP_DIR] = str(folder)
        # Hydra does not call on_multirun_end after a job has failed.
        atexit.register(show_at_exit, folder)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Remove the note of an earlier attempt, and identify the code and the files that the job is about to read."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        self.identity = identity(config)
        if not finished(config):
            (Path(config.hydra.runtime.output_dir) / NOTE).unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Write the note of the job and collect all results so far."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.runtime.output_dir)
        failed = job_return.status != JobStatus.COMPLETED
        error = one_line(job_return._return_value, limit=1000) if failed else None
        write_note(folder, list(config.hydra.overrides.task), error, self.identity)
        collect(folder.parent)


@contextmanager
def surviving_workers(arguments: Sequence[str]) -> Iterator[None]:
    """Start the command again when a worker of joblib is killed in a multirun.

    Joblib then ends all workers. Jobs that have finished are skipped; a job that is killed `ATTEMPTS` times fails.

    Args:
        arguments: of the command, as it was called.
    """
    try:
        yield
    except Exception as error:
        attempt = int(os.environ.get(ATTEMPT, "1"))
        if type(error).__name__ != "TerminatedWorkerError" or attempt == ATTEMPTS:
            raise
        log.warning("a worker was killed; the jobs that have not finished are started again")
        os.environ[ATTEMPT] = str(attempt + 1)
        os.environ["PYTHONPATH"] = python_path()
        sys.stdout.flush()  # the new program does not get what is buffered
        os.execv(sys.executable, [sys.executable, "-m", "lmf", *arguments])


def write_note(folder: Path, overrides: Sequence[str], error: str | None, identity: str) -> None:
    """Write the outcome of a job to its folder.

    Args:
        folder: of the job.
        overrides: of the job.
        error: one-line message; None if the job succeeded.
        identity: see `lmf.app.identity.identity`.
    """
    note = {"overrides": list(overrides), "error": error, "identity": identity}
    write_text(folder / NOTE, json.dumps(note, indent=1) + "\n")


def finished(config: DictConfig) -> bool:
    """Return whether this job of a multirun has already succeeded with the same identity."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return False
    note = read_note(Path(hydra.runtime.output_dir))
    return note["error"] is None and note["identity"] == identity(config)


@dataclass
class SweepRow:
    """One row of the sweep's table: a result of a job, or a job without results.

    Attributes:
        job: number of the job.
        choices: overrides of the job that differ between jobs.
        error: one-line message; empty if the job succeeded.
        result: result on one evaluation set; None if the job has no results.
    """

    job: str
    choices: dict[str, str]
    error: str
    result: Result | None

    def columns(self) -> dict[str, Any]:
        """Return the row as a flat dictionary."""
        measured = self.result.columns() if self.result else {}
        return {"job": self.job, **self.choices, "error": self.error, **measured}


def collect(folder: Path) -> list[SweepRow]:
    """Write ``sweep.csv`` and ``pareto.png`` of the sweep in ``folder`` and return the rows."""
    jobs = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    notes = {job: read_note(job) for job in jobs}
    choices = {job: dict(map(split, note["overrides"])) for job, note in notes.items()}
    keys = dict.fromkeys(key for chosen in choices.values() for key in chosen if key != "launcher")
    swept = [key for key in keys if len({chosen.get(key) for chosen in choices.values()}) > 1]
    rows: list[SweepRow] = []
    for job, note in notes.items():
        results: Sequence[Result | None] = Results.load(job).rows if note["error"] is None else ()
        varied = {key: choices[job].get(key, "") for key in swept}
        rows += [SweepRow(job.name, varied, note["error"] or "", result) for result in results or (None,)]
    if not rows:
        return rows
    write_text(folder / "sweep.csv", csv_text([row.columns() for row in rows]))
    others = [key for key in swept if key != "scale" and not key.startswith("renderer.")]
    lines: dict[str, list[Result]] = {}
    for row in rows:
        if row.result and "rendered_share" in row.result.values:
            label = " ".join([f"{row.result.set} x{row.result.scale:g}", *(row.choices[key] for key in others)])
            lines.setdefault(label, []).append(row.result)
    if lines:
        draw(lines, folder / "pareto.png")
    return rows


def read_note(job: Path) -> dict[str, Any]:
    """Read the outcome of a job from its folder. A killed job has no note, only the overrides that Hydra saved.

    Returns:
        ``{"overrides": [...], "error": str or None}``, and ``"identity"`` if the job ended.
    """
    if (job / NOTE).is_file():
        note: dict[str, Any] = json.loads((job / NOTE).read_text())
        return note
    started = job / ".hydra" / "overrides.yaml"
    overrides = OmegaConf.to_container(OmegaConf.load(started)) if started.is_file() else []
    return {"overrides": overrides, "error": "did not finish"}


def draw(lines: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Plot PSNR against HR and against dense rendering over the rendered share and over time.

    Args:
        lines: label of each line and its results, which have the columns of `lmf.training.callbacks.CMSRCallback`.
        path: PNG file to write.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    for i, axes in enumerate(figure.subplots(2, 2).flat):
        for label, results in lines.items():
            line = sorted((result.values for result in results), key=lambda row: row["rendered_share"])
            x = [row["rendered_share"] if i % 2 == 0 else row["render_s"] / row["dense_render_s"] for row in line]
            y = [row["psnr"] - row["dense_psnr"] if i < 2 else row["psnr_vs_dense"] for row in line]
            axes.plot(x, y, marker="o", label=label)
        axes.set_xlabel("rendered pixels / output pixels" if i % 2 == 0 else "rendering time / that of dense rendering")
        axes.set_ylabel("PSNR against HR minus that of dense, dB" if i < 2 else "PSNR against dense, dB")
        if i < 2:
            axes.plot(1, 0, marker="*", markersize=12, color="black", linestyle="none", label="dense")
        axes.axvline(1, color="black", linestyle=":", linewidth=1)  # dense rendering
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def show_at_exit(folder: Path) -> None:
    """Call `show`, and log an error of the machine, such as a full disk, as one line."""
    try:
        show(folder)
    except OSError as error:
        log.error(f"{error.filename or folder}: {error.strerror}")


def show(folder: Path) -> None:
    """Collect the results of the sweep in ``folder`` and print them as a table."""
    rows = collect(folder) if folder.is_dir() else []
    if not rows:
        return
    columns = [row.columns() for row in rows]
    keys = ["job", *rows[0].choices]
    names = keys + [name for name in FIGURES if name not in keys and any(name in row for row in columns)]
    table = Table(title=str(folder))
    for name in names:
        table.add_column(name.replace("_", " ").replace(".", ". "))  # so that headings can wrap
    for line in columns:
        table.add_row(*(format_value(name, line[name]) if name in line else "" for name in names))
    console().print(table)
    for row in rows:
        if row.error:
            log.error(f"job {row.job} failed: {row.error}")
    for name in ("sweep.csv", "pareto.png"):
        if (folder / name).is_file():
            log.info(f"{folder / name}")
