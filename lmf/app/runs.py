"""Run folders: chooses the folder of a job, finds the last run, and passes the folder to the other ranks.

Importing this module registers the OmegaConf resolvers of conf/config.yaml.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import lmf
from lmf.errors import UserError
from lmf.io.files import cache_folder
from lmf.training.ranks import end_with_parent, is_rank_zero

# Environment variable with the run folder. Lightning starts the other ranks of a node by running this program again,
# and they read the folder from it.
RUN_DIR = "LMF_RUN_DIR"
# Environment variable with the id of the process that started the ranks. They end when it ends.
FIRST_RANK = "LMF_FIRST_RANK"
# Environment variable with the folder of the current multirun.
SWEEP_DIR = "LMF_SWEEP_DIR"
LAST = Path("checkpoints", "last.ckpt")
RESULTS = ("results.json", "benchmark.json", "compare.json")
# Variables that Lightning leaves in the environment after starting ranks. The next job of a sweep must not see them.
_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", RUN_DIR, FIRST_RANK)


def run_dir(runs: str, name: str, task: str, ckpt_path: str | None) -> str:
    """Return the folder of this job, by default a new folder ``runs/name/time``.

    Only ``task=fit`` continues in the folder of the run that it resumes. All other tasks read that run and write to a
    new folder.

    Args:
        runs: parent folder of all runs.
        name: name of the run.
        task: name of the task.
        ckpt_path: ``last``, a run folder, a file or None.
    """
    if RUN_DIR in os.environ:
        return os.environ[RUN_DIR]
    if task == "fit" and ckpt_path == "last":
        last = last_run(Path(runs, name))
        return str(last) if last else _new(Path(runs, name))
    if task == "fit" and ckpt_path and Path(str(ckpt_path), LAST).is_file():
        return str(ckpt_path)
    return _new(Path(runs, name))


class OutputCallback(Callback):
    """Checks the run folder before Hydra writes its logs and config there."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse the folder of another run, unless training resumes it.

        Raises:
            SystemExit: if the folder holds a training run or results. Hydra turns other exceptions into warnings.
        """
        output = Path(str(config.hydra.run.dir))
        try:
            if config.task.name != "fit":
                check_output(output)
            elif config.ckpt_path is None:
                check_new(output)
        except UserError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            sys.exit(1)


def check_new(output: Path) -> None:
    """Check that ``output`` holds no run that a new training would overwrite.

    Raises:
        UserError: if it does. Jobs of a multirun may start again.
    """
    if (output / LAST).is_file() and is_rank_zero() and sweep_name() is None:
        raise UserError(
            f"{output} holds a run already; resume it with ckpt_path={output} or choose another hydra.run.dir"
        )


def check_output(output: Path) -> None:
    """Check that no other run has written to the folder ``output``.

    Raises:
        UserError: if it holds a training run or results. Jobs of a multirun may replace their results.
    """
    if not is_rank_zero():  # the first rank checks
        return
    if any(output.glob("checkpoints/*.ckpt")):
        raise UserError(f"{output} holds a training run; write results to another folder (a new one by default)")
    old = [output / name for name in RESULTS if (output / name).is_file()]
    if old and sweep_name() is None:
        raise UserError(f"{old[0]} exists already; write results to another folder (a new one by default)")


def last_run(*folders: Path) -> Path | None:
    """Return the run folder in ``folders`` with the newest resumable checkpoint; None if there is none."""
    found = [path for folder in folders for path in folder.glob(f"*/{LAST}")]
    checkpoints = sorted(found, key=lambda path: path.stat().st_mtime)
    return checkpoints[-1].parent.parent if checkpoints else None


def sweep_dir(runs: str, name: str, overrides: Sequence[str]) -> str:
    """Return the folder of a multirun. The same command always has the same folder.

    Args:
        runs: parent folder of all runs.
        name: name of the run.
        overrides: overrides of the command line. The launcher does not change the folder.
    """
    if SWEEP_DIR in os.environ:
        return os.environ[SWEEP_DIR]
    content = [o for o in overrides if not o.startswith("launcher=")]
    return str(Path(runs, name, f"sweep-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:10]}"))


def sweep_name() -> str | None:
    """Return the name of the current multirun's folder; None outside multiruns."""
    return Path(os.environ[SWEEP_DIR]).name if SWEEP_DIR in os.environ else None


@cache
def _new(parent: Path) -> str:
    """Create a new folder in ``parent``, named after the time, or after the job of an external launcher.

    The result is cached, so this process always gets the same folder.
    """
    external = os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID")
    if external:  # all ranks must arrive at the same name
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
    raise UserError(f"{parent}: more than 1000 run folders were created in this second; try again")


@contextmanager
def job(output: Path) -> Iterator[None]:
    """Prepare the environment of a job that writes to ``output``, and restore it afterwards.

    Lightning starts the other ranks by executing ``sys.argv`` again. In a multirun this would run all jobs, so within
    the block ``sys.argv`` describes the current job only.
    """
    if not is_rank_zero():
        logging.getLogger("lmf").setLevel(logging.ERROR)  # rank zero logs what holds for all
    if "LOCAL_RANK" in os.environ:  # Lightning or an external launcher started this rank
        if FIRST_RANK in os.environ:  # Lightning did
            end_with_parent(int(os.environ[FIRST_RANK]))
        yield
        return
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method(None, force=True)  # joblib's method does not work for data loaders
    argv = sys.argv
    hydra = HydraConfig.get()
    os.environ[RUN_DIR] = str(output.absolute())
    os.environ[FIRST_RANK] = str(os.getpid())
    if hydra.mode == RunMode.MULTIRUN:
        job_only = [o for o in hydra.overrides.hydra if not o.startswith(_SWEEP_ONLY)]
        sys.argv = [argv[0], *flags(argv[1:]), *hydra.overrides.task, *job_only]
    try:
        with command_as_main():
            yield
    finally:
        sys.argv = argv
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # Lightning keeps it, but the next job has other ranks
        for key in _LAUNCHER:
            os.environ.pop(key, None)


@contextmanager
def command_as_main() -> Iterator[None]:
    """Make Lightning start ranks with ``python -m lmf`` in the worker processes of launchers too.

    Lightning repeats the module that was started with ``-m``. In a worker of joblib or submitit this is a module of the
    launcher.
    """
    main = sys.modules["__main__"]
    started = main.__spec__
    if started is None or started.name.partition(".")[0] == "lmf":
        yield
        return
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path()
    main.__spec__ = importlib.util.find_spec("lmf.__main__")
    try:
        yield
    finally:
        main.__spec__ = started
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def python_path() -> str:
    """Return a ``PYTHONPATH`` for child processes that contains this package.

    A checkout may be on the path of this process only.
    """
    path = os.environ.get("PYTHONPATH")
    root = str(Path(lmf.__file__).parents[1])
    return root if path is None else os.pathsep.join([path, root])


def flags(arguments: Sequence[str]) -> list[str]:
    """Return Hydra's flags and their values: all ``arguments`` except overrides and ``-m``."""
    flags = [a for a in arguments if a not in ("-m", "--multirun")]
    for override in get_args_parser().parse_known_args(arguments)[0].overrides:
        flags.remove(override)
    return flags


def optimizer_steps(epochs: int, iterations: int, *, _root_: DictConfig) -> int:
    """Return how many steps the optimizer takes in ``epochs`` epochs of ``iterations`` batches.

    The result takes ``trainer.accumulate_grad_batches``, ``trainer.limit_train_batches`` and
    ``trainer.overfit_batches`` into account.
    """
    trainer = _root_.get("trainer") or {}
    for limit in (trainer.get("limit_train_batches"), trainer.get("overfit_batches")):
        if limit:
            iterations = int(iterations * limit) if isinstance(limit, float) else min(iterations, limit)
    return max(1, epochs * math.ceil(iterations / (trainer.get("accumulate_grad_batches") or 1)))


_SWEEP_ONLY = ("hydra.mode", "hydra.sweep", "hydra.launcher", "hydra/launcher", "hydra/sweeper")

OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
OmegaConf.register_new_resolver("sweep_dir", sweep_dir, replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
OmegaConf.register_new_resolver("cache_folder", lambda: str(cache_folder()), replace=True)
OmegaConf.register_new_resolver("optimizer_steps", optimizer_steps, replace=True)
