"""Building scale-to-modulation tables for CMSR: a stage of its own, after training."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from rich.table import Table as Overview
from torch import Tensor
from torch.nn.functional import mse_loss

from lmf.calibration.estimators import Errors, Estimator, State
from lmf.calibration.painter import RememberingPainter
from lmf.data import EvalSet, Source
from lmf.data.settings import OnCorrupt
from lmf.grid import Size, axis
from lmf.io.colour import to_network
from lmf.io.files import replacing, write_text
from lmf.kernels.enlarge import enlarge
from lmf.model import SRModel, evaluating
from lmf.renderers import CMSR, Dense, Tables
from lmf.renderers.cmsr.levels import level_grid, owner, touched
from lmf.renderers.cmsr.renderer import intensity
from lmf.renderers.cmsr.tables import Table, fingerprint, psnr

log = logging.getLogger(__name__)
CHECKED = 64  # pictures at most that tables are tried on, spread over all


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
    seen = output.with_name(f".{output.name}.{_digest(model, sets, estimator)}")
    seen.mkdir(parents=True, exist_ok=True)
    work = Work(sets, seen, estimator.folds, rank, world_size, barrier)

    def learn(state: State, n: int, lr: Tensor, size: Size) -> None:
        errors = measure(model, lr, size, estimator.levels, clip=estimator.clip, skip=estimator.skip)
        estimator.update(state, sets[n].scale, errors)

    def check(state: State, n: int, lr: Tensor, size: Size) -> None:
        squares, rendered = outcome(model, lr, size, proposed[sets[n].scale], estimator.overlap)
        state["squares"][n] += squares
        state["rendered"][n] += rendered
        state["pixels"][n] += math.prod(size)

    with evaluating(model):
        proposed = estimator.propose(work.sums("estimating", estimator.empty, learn))
        count = len(next(iter(proposed.values())))
        empty = {"squares": (len(sets), count), "rendered": (len(sets), count), "pixels": (len(sets),)}
        outcomes = work.sums("checking", lambda: {k: np.zeros(shape) for k, shape in empty.items()}, check, CHECKED)
    tables = Tables(
        estimator.select(proposed, outcomes),
        model=fingerprint(model),
        estimator=type(estimator).__name__.lower(),
        images=max(len(pictures) for pictures in sets),
        overlap=estimator.overlap,
    )
    barrier()
    if rank == 0:
        write_text(output, tables.dump())
        shutil.rmtree(seen)
    return tables


@dataclass(frozen=True)
class Work:
    """Sums over all pictures, shared between processes, and kept in ``folder`` after every picture."""

    sets: Sequence[Pictures]
    folder: Path
    folds: int
    rank: int
    world_size: int
    barrier: Callable[[], object]

    def sums(
        self,
        stage: str,
        empty: Callable[[], State],
        add: Callable[[State, int, Tensor, Size], None],
        most: int | None = None,
    ) -> list[State]:
        """The state of each fold, from ``empty`` on, after ``add(state, number of the set, lr, size)`` of its pictures,
        or of about ``most`` in all.

        ``lr`` is (3, h, w) in [0, 1].
        """
        paths = [self.folder / f"{stage}-{fold:02d}.npz" for fold in range(self.folds)]
        with Progress(disable=self.rank > 0, transient=True) as progress:
            for fold in range(self.rank, self.folds, self.world_size):
                state = _load(paths[fold])
                if state is None:
                    state = {"done": np.zeros(len(self.sets), dtype=np.int64), **empty()}
                for n, pictures in enumerate(self.sets):
                    step = max(1, len(pictures) // most) if most else 1
                    indices = range(fold, len(pictures), self.folds)[::step][state["done"][n] :]
                    label = f"{stage} x{pictures.scale:g}, part {fold + 1} of {self.folds}"
                    for i in progress.track(indices, description=label):
                        add(state, n, *pictures[i])
                        state["done"][n] += 1
                        _save(paths[fold], state)
        self.barrier()
        return [state for path in paths if (state := _load(path)) is not None]


@torch.inference_mode()
def measure(
    model: SRModel, lr: Tensor, size: Size, levels: list[float], *, clip: bool = True, skip: bool = True
) -> Errors:
    """What rendering a picture at each of ``levels`` costs, latent by latent.

    Args:
        lr: (3, h, w) in [0, 1].
        size: output (H, W).
        levels: those at or above the scale of the enlargement are left out.
        clip: clip the cell at each level as when rendering; the authors clip only the target's.
        skip: with the bilinear skip, if the decoder has one.
    """
    enlargement = model.prepare(on_device(model, lr), size)
    latent, target, cell = enlargement.latent(), enlargement.target, enlargement.cell
    h, w = latent.size
    strength = intensity(model.decoder, latent)[0]
    if not skip:
        latent = replace(latent, image=None)
    rows = owner(axis(target.cells[0], *target.rows, device=cell.device), h)
    cols = owner(axis(target.cells[1], *target.cols, device=cell.device), w)

    def by_latent(x: Tensor) -> np.ndarray:
        """Sums of ``x`` (rows, cols) over the pixels of each latent: (h w,)."""
        x = x.new_zeros(h, x.shape[1]).index_add_(0, rows, x)
        return x.new_zeros(h, w).index_add_(1, cols, x).flatten().cpu().numpy()

    exact = Dense()(model.decoder, latent, target, cell)[0]
    squares = {}
    for level in levels:
        if level * h >= target.cells[0] or level * w >= target.cells[1]:
            continue
        at = level_grid(level, target, latent.size, *touched(target, latent.size))
        own = model.decoder.cell(at, latent.size, 1, cell.device) if clip else cell.new_tensor([at.cell])
        coarse = enlarge(Dense()(model.decoder, latent, at, own)[0], at, target)
        squares[level] = by_latent((coarse - exact).square().sum(dim=0).double())
    pixels = by_latent(torch.ones(target.size, device=cell.device, dtype=torch.float64))
    return Errors(strength.flatten().float().cpu().numpy(), pixels, squares)


@torch.inference_mode()
def outcome(
    model: SRModel, lr: Tensor, size: Size, tables: Sequence[Table], overlap: bool
) -> tuple[list[float], list[int]]:
    """A picture rendered with each of ``tables``: sum of squared differences from dense rendering, rendered pixels."""
    enlargement = model.prepare(on_device(model, lr), size)
    latent, target, cell = enlargement.latent(), enlargement.target, enlargement.cell
    painter = RememberingPainter(model.decoder, latent, Dense().queries)
    exact, strength = painter.picture(target, cell), intensity(model.decoder, latent)[0]
    out = torch.empty_like(exact)
    found: dict[str, tuple[float, int]] = {}
    for table in tables:
        if str(table.bounds) not in found:
            renderer = CMSR(Tables({1: [table]}), overlap=overlap, above=0)
            levels = renderer.plan(strength, target)
            stats = renderer.paint(out, painter, target, cell, levels)
            found[str(table.bounds)] = mse_loss(out, exact).item() * exact.numel(), sum(stats.rendered)
    squares, rendered = zip(*(found[str(table.bounds)] for table in tables), strict=True)
    return list(squares), list(rendered)


def on_device(model: SRModel, lr: Tensor) -> Tensor:
    """``lr`` (3, h, w) in [0, 1] as the model takes it."""
    return to_network(lr[None].to(model.device))


def overview(tables: Tables) -> Overview:
    """Shares of rendered pixels on screen: a row for each precision, a column for each scale."""
    out = Overview(title=f"rendered pixels / output pixels ({tables.estimator}, {tables.images} pictures)")
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
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **state)  # type: ignore[arg-type]
