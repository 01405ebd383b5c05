"""Multiruns that end with one table and one picture, and that pick up where they stopped.

Hydra gives every job a numbered folder in the sweep's. When a job ends, `SweepCallback` notes there how; a job that
ended well is not run again by the same command, as long as its identity (see `lmf.app.identity`) is the same.
"""

from __future__ import annotations

import atexit
import csv
import json
import logging
import os
from collections.abc import Mapping, Sequence
from io import StringIO
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
from lmf.app.runs import SWEEP_DIR
from lmf.errors import one_line
from lmf.io.files import replacing, write_text
from lmf.training.results import console, format_value

log = logging.getLogger(__name__)

NOTE = "job.json"
RESULTS = "results.json"
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
    """Keeps ``sweep.csv`` and ``pareto.png`` in the sweep's folder up to date, and prints the table at the end."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        os.environ[SWEEP_DIR] = str(folder)
        # At exit, and not in on_multirun_end, which Hydra leaves out when a job has failed.
        atexit.register(show, folder)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN and not finished(config):
            (Path(config.hydra.runtime.output_dir) / NOTE).unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.runtime.output_dir)
        failed = job_return.status != JobStatus.COMPLETED
        error = one_line(job_return._return_value, limit=1000) if failed else None
        write_note(folder, list(config.hydra.overrides.task), error, identity(config))
        collect(folder.parent)


def write_note(folder: Path, overrides: Sequence[str], error: str | None, identity: str) -> None:
    note = {"overrides": list(overrides), "error": error, "identity": identity}
    write_text(folder / NOTE, json.dumps(note, indent=1) + "\n")


def finished(config: DictConfig) -> bool:
    """Whether the job at hand is one of a multirun that has run before and ended well."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return False
    note = read_note(Path(hydra.runtime.output_dir))
    return note["error"] is None and note["identity"] == identity(config)


def collect(folder: Path) -> list[dict[str, Any]]:
    """Writes ``sweep.csv`` and ``pareto.png``.

    Returns one row for each set that a job of the sweep measured, or for the job itself where it measured none. A row
    has ``job``, those overrides that are not the same in all jobs, ``error``, and what ``results.json`` says.
    """
    jobs = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    notes = {job: read_note(job) for job in jobs}
    choices = {job: dict(map(split, note["overrides"])) for job, note in notes.items()}
    keys = dict.fromkeys(key for own in choices.values() for key in own if key != "launcher")
    swept = [key for key in keys if len({own.get(key) for own in choices.values()}) > 1]
    rows: list[dict[str, Any]] = []
    for job, note in notes.items():
        results = json.loads((job / RESULTS).read_text()) if note["error"] is None and (job / RESULTS).is_file() else []
        row = {"job": job.name, **{key: choices[job].get(key, "") for key in swept}, "error": note["error"] or ""}
        rows += [{**row, **result} for result in results] or [row]
    if not rows:
        return rows
    text = StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "sweep.csv", text.getvalue())
    measured = [row for row in rows if "rendered_share" in row]
    if measured:
        others = [key for key in swept if key != "scale" and not key.startswith("renderer.")]
        draw(measured, others, folder / "pareto.png")
    return rows


def read_note(job: Path) -> dict[str, Any]:
    """How a job ended; for one that was killed what Hydra left."""
    if (job / NOTE).is_file():
        return json.loads((job / NOTE).read_text())
    started = job / ".hydra" / "overrides.yaml"
    overrides = OmegaConf.to_container(OmegaConf.load(started)) if started.is_file() else []
    return {"overrides": overrides, "error": "did not finish"}


def draw(rows: Sequence[Mapping[str, Any]], others: Sequence[str], path: Path) -> None:
    """PSNR over rendered share and over time, against HR and against dense rendering; a line for each set and scale.

    Args:
        rows: with the figures of `lmf.training.callbacks.CMSRCallback`.
        others: further names that tell lines apart.
    """
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(" ".join([f"{row['set']} x{row['scale']:g}", *(str(row[key]) for key in others)]), []).append(
            row
        )
    figure = Figure(figsize=(11, 8), layout="constrained")
    for i, axes in enumerate(figure.subplots(2, 2).flat):
        for label, unsorted in lines.items():
            line = sorted(unsorted, key=lambda row: row["rendered_share"])
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


def show(folder: Path) -> None:
    """Collects for the last time, and prints the table."""
    rows = collect(folder) if folder.is_dir() else []
    if not rows:
        return
    own = list(rows[0])[: list(rows[0]).index("error")]  # the job and what was swept over
    names = own + [name for name in FIGURES if name not in own and any(name in row for row in rows)]
    table = Table(title=str(folder))
    for name in names:
        table.add_column(name.replace("_", " ").replace(".", ". "))  # so that headings can wrap
    for row in rows:
        table.add_row(*(format_value(name, row[name]) if name in row else "" for name in names))
    console().print(table)
    for row in rows:
        if row["error"]:
            log.error(f"job {row['job']} failed: {row['error']}")
    for name in ("sweep.csv", "pareto.png"):
        if (folder / name).is_file():
            log.info(f"{folder / name}")
