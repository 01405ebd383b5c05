"""Results of a test: a table on screen, and the same rows as CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from lmf.io.files import write_text


@dataclass
class Results:
    """One row per evaluation set: set, scale, images, psnr, ssim, and bicubic's where measured."""

    rows: list[dict[str, Any]]

    @classmethod
    def collect(cls, sets: Sequence[Any], metrics: Mapping[str, Tensor]) -> Results:
        """``metrics`` named ``test/set5_x4/psnr`` for each of ``sets``."""
        rows = []
        for s in sets:
            prefix = f"test/{s.name}/"
            values = {k.removeprefix(prefix): v.item() for k, v in metrics.items() if k.startswith(prefix)}
            dataset = s.name.rpartition("_x")[0]
            rows.append({"set": dataset, "scale": s.scale, "images": len(s), "protocol": s.protocol, **values})
        return cls(rows)

    @property
    def names(self) -> list[str]:
        """Of all columns; a row need not have every one."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def save(self, folder: Path) -> None:
        """Writes ``results.csv`` and ``results.json`` into ``folder``."""
        text = StringIO()
        writer = csv.DictWriter(text, fieldnames=self.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(folder / "results.csv", text.getvalue())
        write_text(folder / "results.json", json.dumps(self.rows, indent=1) + "\n")

    def show(self, title: str) -> None:
        table = Table(title=title)
        names = [name for name in self.names if name != "protocol"]
        for name in names:
            table.add_column(name.replace("_", " "), justify="left" if name == "set" else "right")
        for row in self.rows:
            table.add_row(*[format_value(name, row[name]) if name in row else "" for name in names])
        console().print(table)


def console() -> Console:
    """The terminal; where output goes to a file instead, as wide as any table."""
    found = Console()
    return found if found.is_terminal else Console(width=250)


def format_value(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if "ssim" in name else f"{value:g}" if name == "scale" else f"{value:.2f}"
    return str(value)
