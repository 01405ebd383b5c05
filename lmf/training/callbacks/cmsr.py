"""What multi-scale rendering saves and what that costs, beside dense rendering of the same pictures."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from lmf.benchmark.cost import Cost, count
from lmf.grid import Size
from lmf.metrics import psnr
from lmf.metrics.functional import protocol_options
from lmf.model import SRModel
from lmf.renderers import CMSR, Dense
from lmf.renderers.cmsr.level_map import panel
from lmf.training.callbacks.pictures import save_png

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
    """While testing with `CMSR`, renders every picture densely too.

    The mean over pictures of each figure is logged as ``test/set5_x8/NAME``, and so stands in the table of results:
    ``psnr_vs_dense``, of colours in [0, 1], RGB, the whole picture, 100 dB where nothing differs; ``dense_psnr``,
    against HR by the set's protocol; ``rendered_share``, rendered pixels / output pixels; ``render_s`` and
    ``dense_render_s``, seconds of rendering alone, on the same latent, the least of three; ``gmacs`` and
    ``dense_gmacs`` (`lmf.benchmark.cost`), of the whole model. ``least_psnr_vs_dense`` is not a mean, but the minimum
    over pictures. Level maps of the first pictures go to ``<output>/level_maps``.

    Args:
        output: the run folder.
        images: level maps per set and process.
    """

    def __init__(self, output: str | os.PathLike[str], images: int = 2) -> None:
        self.folder = Path(output) / "level_maps"
        self.images = images
        self.sums: dict[int, Tensor] = {}  # by set: of the figures, and the number of pictures
        self.least: dict[int, float] = {}  # by set: PSNR against dense rendering
        self.costs: dict[tuple[Size, Size], Cost] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.sums, self.least = {}, {}
        renderer = pl_module.model.renderer  # type: ignore[union-attr]
        if isinstance(renderer, CMSR):
            for logger in trainer.loggers:
                logger.log_hyperparams({"renderer": renderer.settings})

    @torch.inference_mode()
    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        model: SRModel = pl_module.model  # type: ignore[assignment]
        renderer = model.renderer
        if not batch or not isinstance(renderer, CMSR):  # no batch: only another rank has a picture left
            return
        lr, hr = batch["lr"] * 2 - 1, batch["hr"]
        test_set = trainer.datamodule.test_sets[dataloader_idx]  # type: ignore[attr-defined]
        lr_size, size = (lr.shape[-2], lr.shape[-1]), (hr.shape[-2], hr.shape[-1])
        enlargement = model.prepare(lr, size)
        latent, target, cell = enlargement.latent(), enlargement.target, enlargement.cell
        seconds = dense_seconds = math.inf
        for _ in range(REPEATS):  # in turns; whatever else the machine does only adds to the least of them
            (picture, (stats,)), own = timed(lambda: renderer.render(model.decoder, latent, target, cell), lr.device)
            dense, other = timed(lambda: Dense()(model.decoder, latent, target, cell), lr.device)
            seconds, dense_seconds = min(seconds, own), min(dense_seconds, other)
        picture, dense = ((x / 2 + 0.5).clamp(0, 1) for x in (picture, dense))
        if (lr_size, size) not in self.costs:
            self.costs[lr_size, size] = count(model, lr_size, size=size)
        cost = self.costs[lr_size, size]
        space, shave = protocol_options(test_set.protocol, test_set.scale)
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
        sums = self.sums.setdefault(dataloader_idx, torch.zeros(len(figures), dtype=torch.float64))
        sums += torch.tensor(figures, dtype=torch.float64)
        self.least[dataloader_idx] = min(figures[0], self.least.get(dataloader_idx, EXACT_DB))
        if sums[-1] <= self.images:
            name = f"{test_set.name}_{Path(batch['name']).name}.png"
            save_png(panel(picture[0], dense[0], stats), self.folder / name)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module.model.renderer, CMSR):  # type: ignore[union-attr]
            return
        empty = torch.zeros(len(NAMES) + 1, dtype=torch.float64)
        for i, test_set in enumerate(trainer.datamodule.test_sets):  # type: ignore[attr-defined]
            sums = trainer.strategy.reduce(self.sums.get(i, empty).to(pl_module.device), reduce_op="sum")
            *figures, number = sums.tolist()
            least = torch.tensor(self.least.get(i, EXACT_DB), device=pl_module.device)
            values = {f"test/{test_set.name}/{name}": x / number for name, x in zip(NAMES, figures, strict=True)}
            values[f"test/{test_set.name}/least_psnr_vs_dense"] = trainer.strategy.reduce(least, reduce_op="min").item()
            pl_module.log_dict(values, rank_zero_only=False)


def timed(call: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """What ``call`` returns, and the seconds it took until the device was done."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    start = time.perf_counter()
    result = call()
    wait()
    return result, time.perf_counter() - start
