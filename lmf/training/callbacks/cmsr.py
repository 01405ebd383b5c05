"""Compares multi-scale rendering with dense rendering of the same pictures: quality, time and MACs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import lightning as L
import torch
from torch import Tensor

from lmf.benchmark.cost import Cost, count
from lmf.benchmark.timing import synchronize
from lmf.grid import Size
from lmf.io.colour import from_network, to_network
from lmf.metrics import Protocol, psnr
from lmf.metrics.functional import protocol_options
from lmf.renderers import Dense, Stats
from lmf.renderers.cmsr.level_map import panel
from lmf.training.callbacks.pictures import save_png
from lmf.training.module import SRModule

Result = TypeVar("Result")
REPEATS = 3
EXACT_DB = 100.0  # what a picture counts as that does not differ at all
NAMES = (
    "psnr_vs_dense",
    "dense_psnr",
    "rendered_share",
    "render_s",
    "dense_render_s",
    "gmacs",
    "dense_gmacs",
)


class CMSRCallback(L.Callback):
    """Measures what a multi-scale renderer saves: in a test it also renders every picture densely.

    It adds these columns to the results of each set, means over pictures: ``psnr_vs_dense``, of colours in [0, 1],
    RGB, the whole picture, 100 dB where nothing differs; ``dense_psnr``, against HR by the set's protocol;
    ``rendered_share``, rendered pixels / output pixels; ``render_s`` and ``dense_render_s``, seconds of rendering
    alone, on the same latent, the least of three; ``gmacs`` and ``dense_gmacs`` (`lmf.benchmark.cost`), of the whole
    model. ``least_psnr_vs_dense`` is the minimum over pictures. Level maps of the first pictures go to
    ``<output>/level_maps``. With other renderers the callback does nothing.

    Args:
        output: the run folder.
        images: level maps per set and process.
    """

    def __init__(self, output: str | os.PathLike[str], images: int = 2) -> None:
        self.folder = Path(output) / "level_maps"
        self.images = images
        self.sums: list[Tensor] = []  # of each set: the sums of the figures, and the number of pictures
        self.least: list[float] = []  # of each set: the least PSNR against dense rendering
        self.costs: dict[tuple[Size, Size], Cost] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: SRModule) -> None:  # type: ignore[override]
        self.sums = [torch.zeros(len(NAMES) + 1, dtype=torch.float64) for _ in pl_module.results]
        self.least = [EXACT_DB for _ in pl_module.results]
        if pl_module.model.renderer.multi_scale:
            for logger in trainer.loggers:
                logger.log_hyperparams({"renderer": dict(pl_module.model.renderer.settings)})

    @torch.inference_mode()
    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: L.Trainer,
        pl_module: SRModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        row, model = pl_module.results[dataloader_idx], pl_module.model
        if not model.renderer.multi_scale or not batch:
            return
        lr, hr = to_network(batch["lr"]), batch["hr"]
        lr_size, size = (lr.shape[-2], lr.shape[-1]), (hr.shape[-2], hr.shape[-1])
        enlargement = model.prepare(lr, size)
        latent, seen = enlargement.latent(), list[Stats]()
        renderer = model.renderer.watched(seen)
        seconds = dense_seconds = math.inf
        for _ in range(REPEATS):  # in turns; whatever else the machine does only adds to the least of them
            picture, own = timed(lambda: enlargement.render(latent, renderer), lr.device)
            dense, other = timed(lambda: enlargement.render(latent, Dense()), lr.device)
            seconds, dense_seconds = min(seconds, own), min(dense_seconds, other)
        picture, dense, stats = from_network(picture), from_network(dense), seen[-1]
        if (lr_size, size) not in self.costs:
            self.costs[lr_size, size] = count(model, lr_size, size=size)
        cost = self.costs[lr_size, size]
        space, shave = protocol_options(cast(Protocol, row.protocol), row.scale)
        figures = [
            min(psnr(picture, dense).item(), EXACT_DB),
            psnr(dense, hr, space=space, shave=shave).item(),
            stats.share,
            seconds,
            dense_seconds,
            (cost.total_macs - (1 - stats.share) * cost.render_macs) / 1e9,
            cost.total_macs / 1e9,
            1.0,
        ]
        sums = self.sums[dataloader_idx]
        sums += torch.tensor(figures, dtype=torch.float64)
        self.least[dataloader_idx] = min(figures[0], self.least[dataloader_idx])
        if sums[-1] <= self.images:
            name = f"{row.name}_{Path(batch['name']).name}.png"
            save_png(panel(picture[0], dense[0], stats), self.folder / name)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: SRModule) -> None:  # type: ignore[override]
        if not pl_module.model.renderer.multi_scale:
            return
        for row, own_sums, own_least in zip(pl_module.results, self.sums, self.least, strict=True):
            *sums, count = trainer.strategy.reduce(own_sums.to(pl_module.device), reduce_op="sum").tolist()
            least = trainer.strategy.reduce(torch.tensor(own_least, device=pl_module.device), reduce_op="min")
            row.values |= {name: total / count for name, total in zip(NAMES, sums, strict=True)}
            row.values["least_psnr_vs_dense"] = least.item()


def timed(call: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """Returns what ``call`` returns, and the seconds until the device has finished its work."""
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return result, time.perf_counter() - start
