"""Run folders: where a job writes, which run is the last, and how the other ranks of a job find the same place.

Importing this module registers the OmegaConf resolvers that conf/config.yaml uses.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path

import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

import lmf
from lmf.errors import UserError
from lmf.io.files import cache_folder
from lmf.training.ranks import end_with_parent

# Lightning starts the other ranks of a node by running this program again; they read the folder from here.
RUN_DIR = "LMF_RUN_DIR"
# The process that started them, with which they end.
FIRST_RANK = "LMF_FIRST_RANK"
# The folder of the multirun that this process, or the one that started it, runs.
SWEEP_DIR = "LMF_SWEEP_DIR"
LAST = Path("checkpoints", "last.ckpt")
RESULTS = ("results.json", "benchmark.json")
# What Lightning leaves in the environment when it has started ranks. It must not reach the next job of a sweep.
_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", RUN_DIR, FIRST_RANK)


def run_dir(runs: str, name: str, task: str, ckpt_path: str | None) -> str:
    """The folder of this job: a new one, ``runs/name/time``.

    Only ``task=fit`` goes on in the folder of the run that ``ckpt_path`` (``last`` or a folder) names. Every other task
    reads that run, and writes elsewhere.
    """
    if RUN_DIR in os.environ:
        return os.environ[RUN_DIR]
    if task == "fit" and ckpt_path == "last":
        last = last_run(Path(runs, name))
        return str(last) if last else _new(Path(runs, name))
    if task == "fit" and ckpt_path and Path(str(ckpt_path), LAST).is_file():
        return str(ckpt_path)
    return _new(Path(runs, name))


def check_output(output: Path) -> None:
    """Refuses to measure into a folder that another run has written to.

    Raises:
        UserError: it holds a training run or results. Jobs of a multirun may replace their own results.
    """
    if "LOCAL_RANK" in os.environ:  # the first rank has checked
        return
    if any(output.glob("checkpoints/*.ckpt")):
        raise UserError(f"{output} holds a training run; results go into another folder, a new one by default")
    old = [output / name for name in RESULTS if (output / name).is_file()]
    if old and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise UserError(f"{old[0]} exists already; results go into another folder, a new one by default")


def last_run(folder: Path) -> Path | None:
    """The run folder in ``folder`` whose resumable checkpoint is the newest."""
    found = sorted(folder.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent.parent if found else None


def sweep_dir(runs: str, name: str, overrides: Sequence[str]) -> str:
    """The folder of the multirun that the command line ``overrides`` ask for: the same command has the same folder."""
    if SWEEP_DIR in os.environ:
        return os.environ[SWEEP_DIR]
    content = [o for o in overrides if not o.startswith("launcher=")]
    return str(Path(runs, name, f"sweep-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:10]}"))


def sweep_name() -> str | None:
    """The name of that folder; None outside multiruns."""
    return Path(os.environ[SWEEP_DIR]).name if SWEEP_DIR in os.environ else None


@cache
def _new(parent: Path) -> str:
    """A folder that did not exist, named by the time; the same one however often this process asks."""
    external = os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID")
    if external:  # every rank computes the name for itself
        restart = os.environ.get("SLURM_RESTART_COUNT", "")
        folder = parent / f"job-{external}{'-' + restart if restart else ''}"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1000):
        folder = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return str(folder)
    raise UserError(f"{parent}: too many run folders of this second; try again")


@contextmanager
def job(output: Path) -> Iterator[None]:
    """Around a job that writes to ``output``: the ranks that Lightning starts run this job there, not all of a sweep.

    Lightning re-executes ``sys.argv``; in a multirun that names every job.
    """
    if "LOCAL_RANK" in os.environ:  # we are such a rank, or an external launcher started every rank
        if FIRST_RANK in os.environ:  # the former
            end_with_parent(int(os.environ[FIRST_RANK]))
        yield
        return
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method(None, force=True)  # joblib's own way is for its processes, not data loaders
    argv = sys.argv
    hydra = HydraConfig.get()
    os.environ[RUN_DIR] = str(output.absolute())
    os.environ[FIRST_RANK] = str(os.getpid())
    if hydra.mode == RunMode.MULTIRUN:
        own = [o for o in hydra.overrides.hydra if not o.startswith(_SWEEP_ONLY)]
        sys.argv = [argv[0], *flags(argv[1:]), *hydra.overrides.task, *own]
    try:
        with command_as_main():
            yield
    finally:
        sys.argv = argv
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # Lightning leaves it; the next job has other ranks
        for key in _LAUNCHER:
            os.environ.pop(key, None)


@contextmanager
def command_as_main() -> Iterator[None]:
    """Within the block Lightning starts ranks with ``python -m lmf`` where this process is a launcher's worker.

    Lightning repeats the module that was started with ``-m``; in a worker of joblib or submitit that is theirs.
    """
    main = sys.modules["__main__"]
    started = main.__spec__
    if started is None or started.name.partition(".")[0] == "lmf":
        yield
        return
    path = os.environ.get("PYTHONPATH")
    root = str(Path(lmf.__file__).parents[1])  # a checkout may be on the path of this process alone
    os.environ["PYTHONPATH"] = root if path is None else os.pathsep.join([path, root])
    main.__spec__ = importlib.util.find_spec("lmf.__main__")
    try:
        yield
    finally:
        main.__spec__ = started
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def flags(arguments: Sequence[str]) -> list[str]:
    """Those command-line ``arguments`` that are neither overrides nor ``-m``: Hydra's flags and their values."""
    flags = [a for a in arguments if a not in ("-m", "--multirun")]
    for override in get_args_parser().parse_known_args(arguments)[0].overrides:
        flags.remove(override)
    return flags


_SWEEP_ONLY = ("hydra.mode", "hydra.sweep", "hydra.launcher", "hydra/launcher", "hydra/sweeper")

OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
OmegaConf.register_new_resolver("sweep_dir", sweep_dir, replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
OmegaConf.register_new_resolver("cache_folder", lambda: str(cache_folder()), replace=True)
OmegaConf.register_new_resolver("mul", lambda a, b: a * b, replace=True)
