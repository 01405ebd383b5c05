"""Building scale-to-modulation tables for CMSR: a stage of its own, after training."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from lmf.data import EvalSet, Source
from lmf.data.folder import OnCorrupt
from lmf.estimators import Errors, Estimator, State
from lmf.grid import Grid, Size, axis
from lmf.model import SRModel, evaluating
from lmf.renderers import Dense, Tables
from lmf.renderers.cmsr import enlarge, intensity, level_grid, owner, touched
from lmf.renderers.tables import fingerprint, psnr
from lmf.report import write_text

log = logging.getLogger(__name__)


class Pictures(Sequence[tuple[Tensor, Size]]):
    """What to learn from at one target scale: LR pictures (3, h, w) in [0, 1], and the sizes to enlarge them to.

    Args:
        source: where they are.
        scale: the target scale.
        reduce: reduce the pictures by ``scale`` first, as for testing; otherwise they are enlarged as they are.
        limit, crop, on_corrupt: see `lmf.data.EvalSet`.
    """

    def __init__(
        self,
        source: Source,
        scale: float,
        reduce: bool = True,
        limit: int | None = None,
        crop: int | None = None,
        on_corrupt: OnCorrupt = "stop",
    ) -> None:
        self.scale, self.reduce = scale, reduce
        self.pairs = EvalSet(
            "calibrate",
            source,
            scale=scale if reduce else 1,
            protocol="raw",
            lr="pil",
            limit=limit,
            crop=crop,
            on_corrupt=on_corrupt,
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        lr, hr = (self.pairs[index][key] for key in ("lr", "hr"))
        size = hr.shape[-2:] if self.reduce else [round(n * self.scale) for n in lr.shape[-2:]]
        return lr, (size[0], size[1])

    @property
    def identity(self) -> list[Any]:
        """What makes these pictures these."""
        return [self.scale, self.reduce, self.pairs.crop, [str(path) for path in self.pairs.images.paths]]


def calibrate(
    model: SRModel,
    sets: Sequence[Pictures],
    estimator: Estimator,
    output: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], object] = lambda: None,
) -> Tables:
    """Tables for ``model``, written to ``output``.

    One picture is in memory at a time. What was learnt so far is kept in a hidden folder beside ``output`` until that
    is written: the same call after an interruption, on any number of processes, goes on from there, and comes to the
    same tables.

    Args:
        sets: the pictures to learn from, for each target scale.
        estimator: how tables follow.
        rank, world_size, barrier: for several processes with one file system. All return the tables.
    """
    device = next(model.parameters()).device
    seen = output.with_name(f".{output.name}.{_digest(model, sets, estimator)}")
    seen.mkdir(parents=True, exist_ok=True)
    files = [seen / f"{fold:02d}.npz" for fold in range(estimator.folds)]
    with evaluating(model), Progress(disable=rank > 0, transient=True) as progress:
        for fold in range(rank, len(files), world_size):
            state = _load(files[fold]) or {"done": np.zeros(len(sets), dtype=np.int64), **estimator.empty()}
            for number, pictures in enumerate(sets):
                indices = range(fold, len(pictures), len(files))[state["done"][number] :]
                for i in progress.track(indices, description=f"x{pictures.scale:g}, part {fold + 1} of {len(files)}"):
                    lr, size = pictures[i]
                    lr = lr[None].to(device) * 2 - 1
                    errors = measure(model, lr, size, estimator.levels, clip=estimator.clip, skip=estimator.skip)
                    estimator.update(state, pictures.scale, errors)
                    state["done"][number] += 1
                    _save(files[fold], state)
    barrier()
    if rank == 0:
        states = [state for file in files if (state := _load(file)) is not None]
        tables = Tables(
            estimator.solve(states),
            model=fingerprint(model),
            estimator=type(estimator).__name__.lower(),
            images=max(len(pictures) for pictures in sets),
        )
        write_text(output, tables.dump())
        shutil.rmtree(seen)
    barrier()
    return Tables.of(output)


@torch.inference_mode()
def measure(
    model: SRModel, lr: Tensor, size: Size, levels: list[float], *, clip: bool = True, skip: bool = True
) -> Errors:
    """What rendering a picture at each of ``levels`` costs, latent by latent.

    Args:
        lr: (1, 3, h, w) in network units.
        size: output (H, W).
        levels: those at or above the scale of the enlargement are left out.
        clip: clip the cell at each level as when rendering; the authors clip only the target's.
        skip: with the bilinear skip, if the decoder has one.
    """
    image = model.pad(lr)
    h, w = within = (image.shape[-2], image.shape[-1])
    target = model.target((lr.shape[-2], lr.shape[-1]), size)
    cell = model.decoder.cell(target, within, 1, lr.device)
    latent = model.latent(image, cell)
    strength = intensity(model.decoder, latent)[0]
    if not skip:
        latent = replace(latent, image=None)
    rows, cols = (owner(axis(n, *span, device=lr.device), k) for n, span, k in zip(target.cells, (target.rows, target.cols), within, strict=True))

    def by_latent(x: Tensor) -> np.ndarray:
        """Sums of ``x`` (rows, cols) over the pixels of each latent: (h w,)."""
        x = x.new_zeros(h, x.shape[1]).index_add_(0, rows, x)
        return x.new_zeros(h, w).index_add_(1, cols, x).flatten().cpu().numpy()

    exact = Dense()(model.decoder, latent, target, cell)[0]
    squares = {}
    for level in levels:
        if level * h >= target.cells[0] or level * w >= target.cells[1]:
            continue
        at = level_grid(level, target, within, *touched(target, within))
        own = model.decoder.cell(at, within, 1, lr.device) if clip else lr.new_tensor([at.cell])
        coarse = enlarge(Dense()(model.decoder, latent, at, own)[0], at, target)
        squares[level] = by_latent((coarse - exact).square().sum(dim=0).double())
    pixels = by_latent(torch.ones(target.size, device=lr.device, dtype=torch.float64))
    return Errors(strength.flatten().float().cpu().numpy(), pixels, squares)


def overview(tables: Tables) -> Table:
    """Expected shares of rendered pixels on screen: a row for each precision, a column for each scale."""
    out = Table(title=f"rendered pixels / output pixels ({tables.estimator}, {tables.images} pictures)")
    out.add_column("MSE [-1, 1]", justify="right")
    out.add_column("dB [0, 1]", justify="right")
    for scale in tables.tables:
        out.add_column(f"x{scale:g}", justify="right")
    for rows in zip(*tables.tables.values(), strict=True):
        threshold = rows[0].threshold
        shares = ("-" if t.share is None else f"{t.share:.3f}" for t in rows)
        out.add_row(f"{threshold:.3g}", f"{psnr(threshold):.1f}", *shares)
    return out


def _digest(model: SRModel, sets: Sequence[Pictures], estimator: Estimator) -> str:
    """Names all that the result depends on."""
    content = [
        fingerprint(model),
        type(estimator).__name__,
        {name: value for name, value in vars(estimator).items() if isinstance(value, list | float | bool)},
        [pictures.identity for pictures in sets],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _load(path: Path) -> State | None:
    if not path.exists():
        return None
    with np.load(path) as file:
        return dict(file)


def _save(path: Path, state: State) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **state)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
