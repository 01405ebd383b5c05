"""Measured results: one typed row for each evaluation set, and tables of rows on screen, as CSV and as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lmf.io.files import write_text

JSON = "results.json"


@dataclass
class Result:
    """What was measured on one evaluation set.

    Attributes:
        set: name of the pictures, such as ``set5``.
        scale: of the enlargement.
        images: number of pictures measured, of all processes.
        protocol: of the metrics, see `lmf.metrics`.
        values: the figures by column name: ``psnr``, ``ssim``, ``bicubic_psnr``, ``decoder_s`` and so on.
    """

    set: str
    scale: float
    images: int
    protocol: str
    values: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Set and scale in one word, such as ``set5_x4``."""
        return f"{self.set}_x{self.scale:g}"

    def columns(self) -> dict[str, Any]:
        """The row as a flat dictionary: what a line of CSV or an object of JSON holds."""
        return {
            "set": self.set,
            "scale": self.scale,
            "images": self.images,
            "protocol": self.protocol,
            **self.values,
        }

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Result:
        """The row of which `columns` made a dictionary."""
        own = {name: columns[name] for name in ("set", "scale", "images", "protocol")}
        return cls(**own, values={name: value for name, value in columns.items() if name not in own})


@dataclass
class Results:
    """A table of rows. A row need not have every column."""

    rows: Sequence[Result]

    @classmethod
    def load(cls, folder: Path) -> Results:
        """The results that `save` wrote into ``folder``; no rows if there are none."""
        path = folder / JSON
        return cls([Result.of(columns) for columns in json.loads(path.read_text())] if path.is_file() else [])

    def save(self, folder: Path) -> None:
        """Writes ``results.csv`` and ``results.json`` into ``folder``."""
        rows = [row.columns() for row in self.rows]
        write_text(folder / "results.csv", csv_text(rows))
        write_text(folder / JSON, json.dumps(rows, indent=1) + "\n")

    def show(self, title: str) -> None:
        """Prints the table."""
        rows = [row.columns() for row in self.rows]
        table = Table(title=title)
        names = [name for name in column_names(rows) if name != "protocol"]
        for name in names:
            table.add_column(name.replace("_", " "), justify="left" if name == "set" else "right")
        for row in rows:
            table.add_row(*[format_value(name, row[name]) if name in row else "" for name in names])
        console().print(table)


def column_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all columns, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """``rows`` as CSV with a header; a column that a row lacks is empty there."""
    text = StringIO()
    writer = csv.DictWriter(text, column_names(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def console() -> Console:
    """The terminal; where output goes to a file instead, as wide as any table."""
    found = Console()
    return found if found.is_terminal else Console(width=250)


def format_value(name: str, value: Any) -> str:
    """``value`` as the table shows it."""
    if isinstance(value, float):
        return f"{value:.4f}" if "ssim" in name else f"{value:g}" if name == "scale" else f"{value:.2f}"
    return str(value)
