"""Logs parameters, MACs, latency and memory of a model by stage."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich import get_console

from lmf.benchmark.cost import STAGES, Cost, Latency, count, latency
from lmf.benchmark.tables import cost_table
from lmf.errors import UserError
from lmf.io.csv import csv_text
from lmf.io.files import write_text
from lmf.training.loggers import log_rows
from lmf.training.module import SRModule

Every = Literal["fit", "validation", "test"]


class CostCallback(L.Callback):
    """Measures the cost of ``pl_module.model`` (an `lmf.SRModel`) before training and before a test.

    Every logger receives ``cost/params_encoder``, ``cost/params_decoder`` and, for each scale,
    ``cost/x4/encoder_macs``, ``latent_macs``, ``render_macs``, ``encoder_s``, ``latent_s``, ``render_s``, ``total_s``
    and ``peak_bytes``. Rank zero prints a table. It also logs one row per scale and stage to W&B as the table
    ``cost/stages`` and, with ``output``, writes these rows to ``cost.csv`` and ``cost.json``. MACs are those of one
    process; seconds and bytes are the maximum over processes. The measurement does not affect training: mode,
    gradients and random state stay the same.

    Args:
        lr_size: (height, width) of the input in pixels.
        scales: scales to measure.
        every: when to measure, besides before tests: ``"fit"`` (once before training), ``"validation"`` (before every
            validation) or ``"test"`` (never).
        results: whether to add the columns ``decoder_gmacs`` and ``decoder_s`` (latent and rendering) and ``peak_mib``
            (peak memory, where it is known) to the results of tests at one of ``scales``.
        warmup: untimed runs per scale.
        repeats: timed runs per scale.
        budget: seconds per scale after which no run is repeated, see `lmf.benchmark.cost.latency`.
        output: the run folder; None writes no files.

    Raises:
        UserError: if ``every``, ``lr_size`` or ``scales`` is invalid.
    """

    def __init__(
        self,
        lr_size: Sequence[int] = (90, 160),
        scales: Sequence[float] = (2, 4, 8),
        every: Every = "fit",
        results: bool = False,
        warmup: int = 1,
        repeats: int = 3,
        budget: float = 60.0,
        output: str | os.PathLike[str] | None = None,
    ) -> None:
        if every not in get_args(Every):
            raise UserError(f"every must be one of {get_args(Every)}, got {every!r}")
        if len(lr_size) != 2 or not scales:
            raise UserError(f"lr_size must be (height, width) and scales not empty, got {lr_size} and {scales}")
        self.lr_size = (int(lr_size[0]), int(lr_size[1]))
        self.scales = tuple(scales)
        self.every = every
        self.output = None if output is None else Path(output)
        self.results = results
        self.decoder: dict[float, dict[str, float]] = {}  # by scale: columns from the last measurement
        self.latency = partial(latency, warmup=warmup, repeats=repeats, budget=budget)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure before training if ``every`` is ``"fit"``."""
        if self.every == "fit":
            self.measure(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure before a validation if ``every`` is ``"validation"``."""
        if self.every == "validation" and not trainer.sanity_checking:
            self.measure(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure before a test."""
        self.measure(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the costs of the decoder to the results."""
        for row in cast(SRModule, pl_module).results if self.results else ():
            row.values |= self.decoder.get(row.scale, {})

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the model at all scales, log the values and print the table."""
        module = cast(SRModule, pl_module)
        model, device, averaged = module.model, module.device, module.self_ensemble
        costs = [count(model, self.lr_size, scale=s, self_ensemble=averaged) for s in self.scales]
        with trainer.precision_plugin.forward_context():
            local = [
                self.latency(model, self.lr_size, scale=s, device=device, self_ensemble=averaged) for s in self.scales
            ]
        latencies = [worst(x, trainer, device) for x in local]
        self.decoder = {
            scale: columns(cost, timing) for scale, cost, timing in zip(self.scales, costs, latencies, strict=True)
        }
        values = self.values(costs, latencies)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        rows = self.rows(costs, latencies)
        log_rows(trainer.loggers, "cost/stages", rows, step=trainer.global_step)
        if self.output is not None and trainer.is_global_zero:
            self.output.mkdir(parents=True, exist_ok=True)
            write_text(self.output / "cost.csv", csv_text(rows))
            write_text(self.output / "cost.json", json.dumps(rows, indent=1) + "\n")
        name = f"{type(model.encoder).__name__} + {type(model.decoder).__name__}"
        self.show(costs, latencies, f"{name}, self-ensemble" if averaged else name)

    def values(self, costs: Sequence[Cost], latencies: Sequence[Latency]) -> dict[str, float]:
        """Return the values to log by name, from one cost and one latency per scale."""
        values: dict[str, float] = {
            "cost/params_encoder": costs[0].encoder_params,
            "cost/params_decoder": costs[0].decoder_params,
        }
        for scale, cost, timing in zip(self.scales, costs, latencies, strict=True):
            prefix = f"cost/x{scale:g}/"
            values |= {f"{prefix}{stage}_macs": getattr(cost, f"{stage}_macs") for stage in STAGES}
            values |= {f"{prefix}{stage}_s": getattr(timing, stage) for stage in (*STAGES, "total")}
            if timing.peak_bytes is not None:
                values[f"{prefix}peak_bytes"] = timing.peak_bytes
        return values

    def rows(self, costs: Sequence[Cost], latencies: Sequence[Latency]) -> list[dict[str, Any]]:
        """Return one row per scale and stage, from one cost and one latency per scale."""
        return [
            {
                "input": f"{self.lr_size[1]}x{self.lr_size[0]}",
                "scale": scale,
                "stage": stage,
                "gmacs": getattr(cost, f"{stage}_macs") / 1e9,
                "seconds": getattr(timing, stage),
                "device": timing.device,
            }
            for scale, cost, timing in zip(self.scales, costs, latencies, strict=True)
            for stage in (*STAGES, "total")
        ]

    @rank_zero_only
    def show(self, costs: Sequence[Cost], latencies: Sequence[Latency], name: str) -> None:
        """Print the table on the console of the progress bar, which leaves the bar intact."""
        get_console().print(cost_table(costs, latencies, name))


def columns(cost: Cost, timing: Latency) -> dict[str, float]:
    """Return the costs of the decoder as columns of results."""
    found = {"decoder_gmacs": cost.decoder_macs / 1e9, "decoder_s": timing.latent + timing.render}
    return found if timing.peak_bytes is None else found | {"peak_mib": timing.peak_bytes / 2**20}


def worst(local: Latency, trainer: L.Trainer, device: torch.device) -> Latency:
    """Return the largest seconds and bytes over all processes.

    Args:
        local: the latency that this process measured.
        trainer: connects the processes.
        device: device of this process.
    """
    numbers = [
        local.encoder,
        local.latent,
        local.render,
        local.total,
        -1.0 if local.peak_bytes is None else local.peak_bytes,
    ]
    encoder, latent, render, total, peak = trainer.strategy.reduce(
        torch.tensor(numbers, device=device), reduce_op="max"
    ).tolist()
    return replace(
        local, encoder=encoder, latent=latent, render=render, total=total, peak_bytes=None if peak < 0 else int(peak)
    )
