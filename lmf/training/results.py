"""Measured results: a typed row for each evaluation set, and tables of rows on screen, as CSV and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table

from lmf.benchmark.tables import duration
from lmf.io.csv import column_names, csv_text
from lmf.io.files import write_text

JSON = "results.json"


@dataclass
class Result:
    """Results on one evaluation set.

    Attributes:
        set: name of the pictures, such as ``set5``.
        scale: factor of the enlargement.
        images: number of measured pictures, over all processes.
        protocol: ``"div2k"``, ``"benchmark"`` or ``"raw"``, see `lmf.metrics.functional.protocol_options`.
        values: measured values by column name: ``psnr`` (dB), ``ssim``, ``bicubic_psnr``, ``decoder_s`` and so on.
        self_ensemble: whether they are those of a self-ensemble, see `lmf.SRModel.render`.
    """

    set: str
    scale: float
    images: int
    protocol: str
    values: dict[str, float] = field(default_factory=dict)
    self_ensemble: bool = False

    @property
    def name(self) -> str:
        """Set and scale, such as ``set5_x4``."""
        return f"{self.set}_x{self.scale:g}"

    def columns(self) -> dict[str, Any]:
        """Return the row as a flat dictionary, which becomes a line of CSV or an object of JSON."""
        return {
            "set": self.set,
            "scale": self.scale,
            "images": self.images,
            "protocol": self.protocol,
            **({"self_ensemble": True} if self.self_ensemble else {}),
            **self.values,
        }

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Result:
        """Return the row that `columns` converted to a dictionary."""
        fields = {name: columns[name] for name in ("set", "scale", "images", "protocol")}
        fields["self_ensemble"] = columns.get("self_ensemble", False)
        return cls(**fields, values={name: value for name, value in columns.items() if name not in fields})


@dataclass
class Results:
    """A table of rows, which may have different columns."""

    rows: Sequence[Result]

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Load the results that `save` wrote to ``folder``; no rows if there are none."""
        path = folder / JSON
        return cls([Result.of(columns) for columns in json.loads(path.read_text())] if path.is_file() else [])

    def save(self, folder: Path) -> None:
        """Write ``results.csv`` and ``results.json`` to ``folder``."""
        rows = [row.columns() for row in self.rows]
        write_text(folder / "results.csv", csv_text(rows))
        write_text(folder / JSON, json.dumps(rows, indent=1) + "\n")

    def show(self, title: str) -> None:
        """Print the table under ``title``, in several parts if the console is too narrow for all columns."""
        screen, rows = console(), [row.columns() for row in self.rows]
        if not rows:
            screen.print(f"{title}: no results")
            return
        names = [name for name in column_names(rows) if name != "protocol"]
        cells = {name: [format_value(name, row[name]) if name in row else "" for row in rows] for name in names}
        widths = {name: max(map(len, (*heading(name).split(), *cells[name]))) for name in names}  # headings wrap
        widths["set"] = min(widths["set"], screen.width // 3)
        for n, part in enumerate(parts(widths, screen.width)):
            table = Table(title=None if n else title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for name in part:
                justify: JustifyMethod = "left" if name == "set" else "right"
                table.add_column(heading(name), justify=justify, width=widths[name], overflow="fold")
            for line in zip(*(cells[name] for name in part), strict=True):
                table.add_row(*line)
            screen.print(table)


def parts(widths: Mapping[str, int], limit: int) -> list[list[str]]:
    """Divide columns of ``widths`` into tables of at most ``limit`` characters. Each begins with set and scale."""
    keys = ["set", "scale"]
    found: list[list[str]] = [list(keys)]
    for name in widths:
        if name in keys:
            continue
        if sum(widths[other] + 2 for other in (*found[-1], name)) > limit and found[-1] != keys:
            found.append(list(keys))
        found[-1].append(name)
    return found


def console() -> Console:
    """Return a console for tables.

    If the output is not a terminal, it is as wide as ``COLUMNS`` says, else 250 characters.
    """
    terminal = Console()
    return terminal if terminal.is_terminal or "COLUMNS" in os.environ else Console(width=250)


def heading(name: str) -> str:
    """Return the heading of the column ``name``. Times have their units in the cells."""
    return name.removesuffix("_s").replace("_", " ")


def format_value(name: str, value: Any) -> str:
    """Format a value of the column ``name`` for a table."""
    if name.endswith("colour_share"):
        return f"{value:.4%}"
    if isinstance(value, float):
        if name.endswith("_s"):
            return duration(value)
        return f"{value:.4f}" if "ssim" in name else f"{value:g}" if name == "scale" else f"{value:.2f}"
    return str(value)
