"""Compares quality, time and MACs of multi-scale rendering and dense rendering of the same pictures."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from lmf.benchmark.cost import Cost, count, ways
from lmf.benchmark.timing import timed
from lmf.grid import Size
from lmf.io.colour import from_network, to_network
from lmf.metrics import Protocol, psnr
from lmf.metrics.functional import precise, protocol_options
from lmf.model import SRModel
from lmf.renderers import Dense, Stats
from lmf.training.callbacks.level_map import panel
from lmf.training.callbacks.pictures import save_png
from lmf.training.module import SRModule

REPEATS = 3
EXACT_DB = 100.0  # finite PSNR that identical pictures count with
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
    """Measures the savings of a multi-scale renderer. During a test it also renders every picture densely.

    With other renderers the callback does nothing. It adds these columns to the results of each set, which are means
    over pictures if not stated otherwise:

    - ``psnr_vs_dense``: PSNR against dense rendering in dB, of RGB in [0, 1] on the whole picture; 100 dB for identical
      pictures.
    - ``least_psnr_vs_dense``: its minimum over pictures.
    - ``dense_psnr``: PSNR of dense rendering against HR in dB, by the protocol of the set.
    - ``rendered_share``: rendered pixels / output pixels.
    - ``render_s``, ``dense_render_s``: seconds of rendering from the same latent, the minimum of three runs.
    - ``gmacs``, ``dense_gmacs``: 10^9 MACs of the whole model, see `lmf.benchmark.cost`.

    The values of each picture become ``outputs["values"]``, which later callbacks log and write. Level
    maps of the first pictures are saved to ``<output>/level_maps``.

    Args:
        output: the run folder.
        images: number of level maps per set and process.
    """

    def __init__(self, output: str | os.PathLike[str], images: int = 2) -> None:
        self.folder = Path(output) / "level_maps"
        self.images = images
        self.sums: list[Tensor] = []  # per set: sums of the values in NAMES, and the number of pictures
        self.least: list[float] = []  # per set: least PSNR against dense rendering
        self.costs: dict[tuple[Size, Size], Cost] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the sums and log the settings of the renderer."""
        module = cast(SRModule, pl_module)
        self.sums = [torch.zeros(len(NAMES) + 1, dtype=torch.float64) for _ in module.results]
        self.least = [EXACT_DB for _ in module.results]
        if module.model.renderer.multi_scale:
            for logger in trainer.loggers:
                logger.log_hyperparams({"renderer": dict(module.model.renderer.settings)})

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
        """Render the picture of ``batch`` with both renderers and add the measured values."""
        module = cast(SRModule, pl_module)
        row, model = module.results[dataloader_idx], module.model
        if not model.renderer.multi_scale or not batch:
            return
        lr, hr = to_network(batch["lr"]), batch["hr"]
        lr_size, size = (lr.shape[-2], lr.shape[-1]), (hr.shape[-2], hr.shape[-1])
        passes, stats = ways(module.self_ensemble), list[Stats]()
        total, seconds = lr.new_zeros(()), torch.zeros(2, dtype=torch.float64)
        for way in passes:
            pair, seen, spent = self.compare(model, way.apply(lr), way.size(size))
            total, seconds = total + way.undo(pair), seconds + torch.tensor(spent)
            stats.append(seen)
        picture, dense = from_network(total / len(passes))
        share = sum(seen.share for seen in stats) / len(stats)
        if (lr_size, size) not in self.costs:
            self.costs[lr_size, size] = count(model, lr_size, size=size, self_ensemble=module.self_ensemble)
        cost = self.costs[lr_size, size]
        space, shave = protocol_options(cast(Protocol, row.protocol), row.scale)
        figures = [
            min(psnr(picture, dense).item(), EXACT_DB),
            psnr(dense, hr, space=space, shave=shave).item(),
            share,
            *seconds.tolist(),
            (cost.total_macs - (1 - share) * cost.render_macs) / 1e9,
            cost.total_macs / 1e9,
            1.0,
        ]
        sums = self.sums[dataloader_idx]
        sums += torch.tensor(figures, dtype=torch.float64)
        self.least[dataloader_idx] = min(figures[0], self.least[dataloader_idx])
        values = outputs.setdefault("values", {})
        values |= dict(zip(NAMES, figures[:-1], strict=True))
        if sums[-1] <= self.images:
            name = f"{row.name}_{Path(batch['name']).name}.png"
            values["levels"] = panel(picture[0], dense[0], stats[0])
            save_png(values["levels"], self.folder / name)

    def compare(self, model: SRModel, lr: Tensor, size: Size) -> tuple[Tensor, Stats, tuple[float, float]]:
        """Render ``lr`` (1, 3, h, w) at several levels and densely.

        Returns:
            Both pictures (2, 1, 3, H, W) in network units, the statistics of the first one, and the least seconds of
            both.
        """
        enlargement = model.prepare(lr, size)
        latent, seen = enlargement.latent(), list[Stats]()
        renderer = model.renderer.watched(seen)
        seconds = dense_seconds = math.inf
        for _ in range(REPEATS):  # alternately, so that other load on the machine affects both
            picture, multi_scale_run = timed(lambda: enlargement.render(latent, renderer), lr.device)
            dense, dense_run = timed(lambda: enlargement.render(latent, Dense()), lr.device)
            seconds, dense_seconds = min(seconds, multi_scale_run), min(dense_seconds, dense_run)
        return torch.stack([picture, dense]), seen[-1], (seconds, dense_seconds)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the means over all processes to the results."""
        module = cast(SRModule, pl_module)
        if not module.model.renderer.multi_scale:
            return
        device = pl_module.device
        for row, local_sums, local_least in zip(module.results, self.sums, self.least, strict=True):
            *sums, count = trainer.strategy.reduce(local_sums.to(device, precise(device)), reduce_op="sum").tolist()
            least = trainer.strategy.reduce(torch.tensor(local_least, device=device), reduce_op="min")
            row.values |= {name: total / count for name, total in zip(NAMES, sums, strict=True)}
            row.values["least_psnr_vs_dense"] = least.item()
