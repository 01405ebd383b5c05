"""What a training shows in the terminal: a progress bar, and a table after each validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lmf.training.module import SRModule
from lmf.training.results import Result


class ProgressBar(RichProgressBar):
    """Lightning's progress bar without the version number of the loggers."""

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the values to show beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class ValidationCallback(L.Callback):
    """Prints the PSNR of each validation set after each validation of a training."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table on the console of the progress bar, which leaves the bar intact."""
        if trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.sanity_checking:
            rows = cast(SRModule, pl_module).results
            get_console().print(validation_table(rows, f"validation after step {trainer.global_step:,}"))


def validation_table(rows: Sequence[Result], title: str) -> Table:
    """Return a table with a row per set and scale: PSNR, that of bicubic, and their difference."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("set", overflow="fold")
    for heading in ("scale", "dB", "bicubic dB", "gain dB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        psnr, bicubic = row.values.get("psnr"), row.values.get("bicubic_psnr")
        cells = [f"{psnr:.2f}" if psnr is not None else "", f"{bicubic:.2f}" if bicubic is not None else ""]
        cells.append(f"{psnr - bicubic:+.2f}" if psnr is not None and bicubic is not None else "")
        table.add_row(row.set, f"x{row.scale:g}", *cells)
    return table
