"""The calibration of scale-to-modulation tables for CMSR, a separate stage after training."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.table import Table as Overview
from torch import Tensor

import lmf
from lmf.calibration.estimators import Estimator, State
from lmf.calibration.measurement import measure, outcome
from lmf.data import EvalSet, Source
from lmf.data.settings import OnCorrupt
from lmf.grid import Size
from lmf.io.files import locked, replacing, write_text
from lmf.model import SRModel, evaluating
from lmf.renderers import Tables
from lmf.renderers.cmsr.tables import fingerprint, psnr

log = logging.getLogger(__name__)
CHECKED = 64  # maximum number of pictures to try the tables on, spread evenly


class Pictures(Sequence[tuple[Tensor, Size]]):
    """The pictures for one target scale, as pairs of an LR picture (3, h, w) in [0, 1] and an output size (H, W).

    Args:
        source: location of the pictures.
        scale: target scale.
        reduce: whether to reduce the pictures by ``scale`` first, as in tests; otherwise they are the LR pictures.
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
        pair = self.pairs[index]
        lr, hr = pair["lr"], pair["hr"]
        size = hr.shape[-2:] if self.reduce else [round(n * self.scale) for n in lr.shape[-2:]]
        return lr, (size[0], size[1])

    @property
    def identity(self) -> list[Any]:
        """The values that determine the pictures, with the size and time of every file."""
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.pairs.images.paths]
        return [self.scale, self.reduce, self.pairs.crop, files]


def calibrate(
    model: SRModel,
    sets: Sequence[Pictures],
    estimator: Estimator,
    output: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], object] = lambda: None,
    version: str = lmf.__version__,
) -> Tables:
    """Calibrate tables for ``model`` and write them to ``output``.

    Only one picture is in memory at a time. Intermediate results are kept in a hidden folder beside ``output`` until
    the tables are written. After an interruption the same call continues from there, on any number of processes, and
    returns the same tables. If another run of the same calibration is in progress, the call waits for its end.

    Args:
        model: the model to calibrate.
        sets: the pictures for each target scale.
        estimator: computes the tables.
        output: path of the tables.
        rank, world_size, barrier: for several processes that share a file system.
        version: identifies the running code. Another version does not continue from intermediate results.

    Returns:
        The tables, in every process.
    """
    progress = output.with_name(f".{output.name}.{_digest(model, sets, estimator, version)}")
    with _held(progress) if rank == 0 else nullcontext():
        barrier()
        tables = _tables(model, sets, estimator, Work(sets, progress, estimator.folds, rank, world_size, barrier))
        barrier()
        if rank == 0:
            write_text(output, tables.dump())
            shutil.rmtree(progress)
    return tables


def _tables(model: SRModel, sets: Sequence[Pictures], estimator: Estimator, work: Work) -> Tables:
    """Estimate tables, try them on the pictures and select the best; the same in every process."""

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
    return Tables(
        estimator.select(proposed, outcomes),
        model=fingerprint(model),
        estimator=type(estimator).__name__.lower(),
        images=max(len(pictures) for pictures in sets),
        overlap=estimator.overlap,
    )


@dataclass(frozen=True)
class Work:
    """Sums over all pictures, distributed over processes and saved after every picture.

    Attributes:
        sets: the pictures for each target scale.
        folder: folder of the saved states.
        folds: number of states.
        rank, world_size, barrier: see `calibrate`.
    """

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
        max_pictures: int | None = None,
    ) -> list[State]:
        """Accumulate the pictures of each fold in a state.

        Args:
            stage: name of the stage, used for the files and the progress bar.
            empty: returns a new state.
            add: adds a picture to a state, called with the state, the index of the set, the LR picture (3, h, w) in
                [0, 1] and the output size.
            max_pictures: approximate maximum number of pictures per set, spread evenly; all by default.

        Returns:
            The state of each fold.
        """
        paths = [self.folder / f"{stage}-{fold:02d}.npz" for fold in range(self.folds)]
        with Progress(disable=self.rank > 0, transient=True) as progress:
            for fold in range(self.rank, self.folds, self.world_size):
                state = _load(paths[fold])
                if state is None:
                    state = {"done": np.zeros(len(self.sets), dtype=np.int64), **empty()}
                for n, pictures in enumerate(self.sets):
                    step = max(1, len(pictures) // max_pictures) if max_pictures else 1
                    indices = range(fold, len(pictures), self.folds)[::step][state["done"][n] :]
                    label = f"{stage} x{pictures.scale:g}, part {fold + 1} of {self.folds}"
                    for i in progress.track(indices, description=label):
                        add(state, n, *pictures[i])
                        state["done"][n] += 1
                        _save(paths[fold], state)
        self.barrier()
        return [state for path in paths if (state := _load(path)) is not None]


def overview(tables: Tables) -> Overview:
    """Return a `rich` table of the shares of rendered pixels, with one row per threshold and one column per scale."""
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


def _digest(model: SRModel, sets: Sequence[Pictures], estimator: Estimator, version: str) -> str:
    """Return a digest of everything that the result depends on."""
    content = [
        version,
        fingerprint(model),
        f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        dict(estimator.settings),
        [pictures.identity for pictures in sets],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Create ``folder`` and hold its lock, after the end of any run that holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        inode = _inode(folder)
        with locked(folder, wait=False) as free:
            pass
        if not free:
            log.info(f"{folder} may be in use by another run of the same calibration; waiting for its end")
        with locked(folder):
            if inode is not None and _inode(folder) == inode:  # else the other run has removed the folder
                yield
                return


def _inode(folder: Path) -> int | None:
    """Return the inode of ``folder``, or None if it does not exist."""
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


def _load(path: Path) -> State | None:
    if not path.exists():
        return None
    with np.load(path) as file:
        return dict(file)


def _save(path: Path, state: State) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **state)  # type: ignore[arg-type]
