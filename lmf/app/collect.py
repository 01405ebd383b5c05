"""Collects the results of a multirun: rows of all jobs, means over seeds, tables and figures."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lmf.app.notes import read_note
from lmf.app.overrides import split
from lmf.figures import sweeps
from lmf.figures.style import save
from lmf.io.csv import csv_text
from lmf.io.files import write_text
from lmf.training.results import console, format_value, heading

log = logging.getLogger(__name__)

SEED = "seed"  # values of this key are repetitions
# By file of results: the columns that say what was measured, in this order, and the metric to compare by.
FILES = {
    "results.json": (("set", "scale"), "psnr"),
    "compare.json": (("set", "scale", "model"), "psnr"),
    "benchmark.json": (("model", "self_ensemble", "backend", "encoder", "lr", "scale", "precision"), "total_s"),
}
DETAILS = ("images", "protocol", "pictures", "size", "device", "threads", "repeats")  # neither case nor value
# Values in the printed table besides the metric; the CSV files have all.
SHOWN = (
    "bicubic_psnr",
    "decoder_gmacs",
    "decoder_s",
    "peak_mib",
    "dense_psnr",
    "psnr_vs_dense",
    "least_psnr_vs_dense",
    "rendered_share",
    "render_s",
    "dense_render_s",
)


@dataclass(frozen=True)
class Row:
    """A result of a job, or a job without results.

    Attributes:
        job: number of the job.
        choices: overrides of the job that differ between jobs.
        error: one-line message; empty if the job succeeded.
        case: what was measured, such as ``{"set": "set5", "scale": 4}``; empty without results.
        details: further facts, such as the number of pictures.
        values: measured values by name.
        metric: name of the value to compare by.
    """

    job: str
    choices: Mapping[str, str]
    error: str
    case: Mapping[str, Any]
    details: Mapping[str, Any]
    values: Mapping[str, float]
    metric: str

    def columns(self) -> dict[str, Any]:
        """Return the row as a flat dictionary."""
        return {"job": self.job, **self.choices, "error": self.error, **self.case, **self.details, **self.values}

    @property
    def settings(self) -> dict[str, str]:
        """The choices without the seed and without what the case says."""
        return {key: value for key, value in self.choices.items() if key != SEED and key not in self.case}


@dataclass(frozen=True)
class Summary:
    """Results of jobs that differ in their seed alone, on one case.

    Attributes:
        settings, case: see `Row`.
        jobs: number of jobs.
        metric: name of the value to compare by.
        values: means by name.
        deviation: sample standard deviation of the metric; None for one job.
    """

    settings: Mapping[str, str]
    case: Mapping[str, Any]
    jobs: int
    metric: str
    values: Mapping[str, float]
    deviation: float | None

    def columns(self) -> dict[str, Any]:
        """Return the summary as a flat dictionary."""
        spread = {} if self.deviation is None else {f"{self.metric}_std": self.deviation}
        others = {name: value for name, value in self.values.items() if name != self.metric}
        measured = {self.metric: self.values[self.metric]}
        return {**self.settings, **self.case, "jobs": self.jobs, **measured, **spread, **others}


def higher_is_better(metric: str) -> bool:
    """Return whether larger values of a metric are better: PSNR, SSIM and GFLOP/s; other values are costs."""
    return any(name in metric for name in ("psnr", "ssim", "gflops"))


def collect(folder: Path, metric: str | None = None) -> list[Row]:
    """Write ``sweep.csv`` and ``summary.csv`` of the sweep in ``folder`` and return the rows.

    Args:
        folder: of the sweep.
        metric: value to compare by; None chooses one by the kind of the results.
    """
    jobs = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    notes = {job: read_note(job) for job in jobs}
    choices = {job: dict(map(split, note["overrides"])) for job, note in notes.items()}
    keys = dict.fromkeys(key for chosen in choices.values() for key in chosen if key != "launcher")
    swept = [key for key in keys if len({chosen.get(key) for chosen in choices.values()}) > 1]
    rows: list[Row] = []
    for job, note in notes.items():
        varied = {key: choices[job].get(key, "") for key in swept}
        own = rows_of(job, varied, metric) if note["error"] is None else []
        rows += own or [Row(job.name, varied, note["error"] or "", {}, {}, {}, metric or "")]
    if rows:
        write_text(folder / "sweep.csv", csv_text([row.columns() for row in rows]))
    if summaries := summarise(rows):
        write_text(folder / "summary.csv", csv_text([summary.columns() for summary in summaries]))
    return rows


def rows_of(job: Path, choices: Mapping[str, str], metric: str | None = None) -> list[Row]:
    """Read the results in the folder of a job."""
    for name, (keys, usual) in FILES.items():
        if (job / name).is_file():
            rows = []
            for record in json.loads((job / name).read_text()):
                case = {key: record.pop(key) for key in keys if key in record}
                details = {key: record.pop(key) for key in DETAILS if key in record}
                rows.append(Row(job.name, choices, "", case, details, record, metric or usual))
            return rows
    return []


def objective(job: Path, metric: str | None = None) -> float | None:
    """Return the mean of the metric over all results of a job; None if it has none."""
    values = [row.values[row.metric] for row in rows_of(job, {}, metric) if is_measured(row)]
    return statistics.fmean(values) if values else None


def is_measured(row: Row) -> bool:
    """Return whether ``row`` has a value of its metric."""
    return isinstance(row.values.get(row.metric), int | float)


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Average over seeds, and sort by case and then by the metric, best first."""
    groups: dict[str, list[Row]] = {}
    for row in filter(is_measured, rows):
        groups.setdefault(json.dumps([row.case, row.settings]), []).append(row)
    found = []
    for group in groups.values():
        first = group[0]
        columns = {name: [row.values[name] for row in group if name in row.values] for name in first.values}
        numbers = {name: [x for x in column if isinstance(x, int | float)] for name, column in columns.items()}
        values = {name: statistics.fmean(column) for name, column in numbers.items() if column}
        metric = numbers[first.metric]
        deviation = statistics.stdev(metric) if len(metric) > 1 and all(map(math.isfinite, metric)) else None
        found.append(Summary(first.settings, first.case, len(group), first.metric, values, deviation))
    cases = list(dict.fromkeys(json.dumps(summary.case) for summary in found))

    def order(summary: Summary) -> tuple[int, float]:
        value = summary.values[summary.metric]
        return cases.index(json.dumps(summary.case)), -value if higher_is_better(summary.metric) else value

    return sorted(found, key=order)


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the metric over each swept quantity, and for CMSR precision over cost; return the PNG files."""
    measured = [row for row in rows if is_measured(row)]
    swept = [key for key in (rows[0].choices if rows else ()) if key != SEED]
    figures = {}
    for key in swept:
        points = []
        for row in measured:
            case = {name: value for name, value in row.case.items() if name != key}
            others = {name: value for name, value in row.settings.items() if name != key}
            x = f"{row.case[key]:g}" if key == "scale" and key in row.case else row.choices[key]
            points.append(sweeps.Point(named(case), named(others), x, row.values[row.metric]))
        if len({point.x for point in points}) > 1:
            figures[f"sweep-{key.replace('/', '_')}"] = sweeps.quantity(key, measured[0].metric, points)
    lines: dict[str, list[Mapping[str, float]]] = {}
    for row in measured:
        if "rendered_share" in row.values and "dense_render_s" in row.values:
            others = {name: value for name, value in row.settings.items() if not name.startswith("renderer.")}
            lines.setdefault(" ".join(filter(None, [named(row.case), named(others)])), []).append(row.values)
    if lines:
        figures["pareto"] = sweeps.pareto(lines)
    return [save(figure, folder / name)[0] for name, figure in figures.items()]


def named(parts: Mapping[str, Any]) -> str:
    """Return a short text for a case or for settings, such as ``set5 x4`` or ``lr 1e-3, depth 4``."""
    if "scale" in parts or "set" in parts or "model" in parts:
        texts = [f"x{value:g}" if name == "scale" else str(value) for name, value in parts.items()]
        return " ".join(text for text in texts if text != "32-true")
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in parts.items())


def show(folder: Path, metric: str | None = None) -> None:
    """Collect the results of the sweep in ``folder``, print them as a table and draw them."""
    rows = collect(folder, metric) if folder.is_dir() else []
    if not rows:
        return
    console().print(table(rows, str(folder)))
    plots = draw(rows, folder)
    for path in (*(folder / name for name in ("sweep.csv", "summary.csv")), *plots):
        if path.is_file():
            log.info(str(path))


def table(rows: Sequence[Row], title: str) -> Table:
    """Return a table for the terminal: means over seeds, best first, then the jobs without results."""
    summaries = summarise(rows)
    failed = [row for row in rows if not is_measured(row)]
    keys = [key for key in rows[0].choices if key != SEED]
    cases = dict.fromkeys(key for summary in summaries for key in summary.case if key not in keys)
    varied = [key for key in cases if len({str(summary.case.get(key)) for summary in summaries}) > 1 or key == "set"]
    values = [name for name in SHOWN if any(name in summary.values for summary in summaries)]
    metrics = list(dict.fromkeys(summary.metric for summary in summaries))
    names = [*keys, *varied, *metrics, *(["jobs"] if any(s.jobs > 1 for s in summaries) else []), *values]
    found = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in [*names, *(["job", "failed because"] if failed else [])]:
        left = name in (*keys, *varied, "failed because")
        found.add_column(heading(name.rpartition(".")[2]), justify="left" if left else "right", overflow="fold")
    for summary in summaries:
        columns = summary.columns()
        texts = {name: text_of(name, value) for name, value in columns.items()}
        if summary.deviation is not None:
            texts[summary.metric] += f" ± {text_of(summary.metric, summary.deviation)}"
        found.add_row(*(texts.get(name, "") for name in names))
    for row in failed:
        reason = row.error or "no results"
        found.add_row(*(row.choices.get(name, "") for name in names), row.job, reason)
    return found


def text_of(name: str, value: Any) -> str:
    """Format a value for the table."""
    return "x".join(map(str, value)) if isinstance(value, list) else format_value(name, value)
