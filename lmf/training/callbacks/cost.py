"""Logs what a model costs: parameters, MACs, latency and memory by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich import get_console

from lmf.benchmark.cost import STAGES, Cost, Latency, count, latency
from lmf.benchmark.tables import cost_table
from lmf.errors import UserError
from lmf.model import SRModel
from lmf.training.module import SRModule

Every = Literal["fit", "validation", "test"]


class CostCallback(L.Callback):
    """Measures ``pl_module.model`` (an `lmf.SRModel`) before training and before a test.

    Every logger gets ``cost/params_encoder``, ``cost/params_decoder`` and, by scale, ``cost/x4/encoder_macs``,
    ``latent_macs``, ``render_macs``, ``encoder_s``, ``latent_s``, ``render_s``, ``total_s`` and ``peak_bytes``; rank
    zero prints a table with the convention. MACs are those of one process, seconds and bytes those of the worst.
    Training goes on as if nothing had happened: mode, gradients and random state are left alone.

    Args:
        lr_size: (height, width) of the input.
        scales: of the outputs.
        every: ``"fit"``: once before training; ``"validation"``: before every validation; ``"test"``: neither.
        results: also add the columns ``decoder_gmacs`` and ``decoder_s`` (latent and rendering) to the results of
            tests at any of ``scales``.
        warmup, repeats, budget: see `lmf.benchmark.cost.latency`; the budget is per scale.
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
    ) -> None:
        if every not in get_args(Every):
            raise UserError(f"every must be one of {get_args(Every)}, got {every!r}")
        if len(lr_size) != 2 or not scales:
            raise UserError(f"lr_size must be (height, width), scales at least one; got {lr_size} and {scales}")
        self.lr_size = (int(lr_size[0]), int(lr_size[1]))
        self.scales = tuple(scales)
        self.every = every
        self.results = results
        self.decoder: dict[float, dict[str, float]] = {}  # by scale: what the last measurement found
        self.latency = partial(latency, warmup=warmup, repeats=repeats, budget=budget)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.every == "fit":
            self.measure(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.every == "validation" and not trainer.sanity_checking:
            self.measure(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.measure(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: SRModule) -> None:  # type: ignore[override]
        for row in pl_module.results if self.results else ():
            row.values |= self.decoder.get(row.scale, {})

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model: SRModel = pl_module.model  # type: ignore[assignment]
        device = pl_module.device
        costs = [count(model, self.lr_size, scale=s) for s in self.scales]
        with trainer.precision_plugin.forward_context():
            own = [self.latency(model, self.lr_size, scale=s, device=device) for s in self.scales]
        latencies = [worst(x, trainer, device) for x in own]
        self.decoder = {
            scale: {"decoder_gmacs": cost.decoder_macs / 1e9, "decoder_s": timing.latent + timing.render}
            for scale, cost, timing in zip(self.scales, costs, latencies, strict=True)
        }
        values = self.values(costs, latencies)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        self.show(costs, latencies, f"{type(model.encoder).__name__} + {type(model.decoder).__name__}")

    def values(self, costs: Sequence[Cost], latencies: Sequence[Latency]) -> dict[str, float]:
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

    @rank_zero_only
    def show(self, costs: Sequence[Cost], latencies: Sequence[Latency], name: str) -> None:
        # The progress bar stays intact because this is its console.
        get_console().print(cost_table(costs, latencies, name))


def worst(own: Latency, trainer: L.Trainer, device: torch.device) -> Latency:
    """The largest seconds and bytes over all processes."""
    numbers = [own.encoder, own.latent, own.render, own.total, -1.0 if own.peak_bytes is None else own.peak_bytes]
    encoder, latent, render, total, peak = trainer.strategy.reduce(
        torch.tensor(numbers, device=device), reduce_op="max"
    ).tolist()
    return replace(
        own, encoder=encoder, latent=latent, render=render, total=total, peak_bytes=None if peak < 0 else int(peak)
    )
