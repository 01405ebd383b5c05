"""Runs the jobs of a multirun in Ray, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lmf.app.runs import SWEEP_DIR, python_path
from lmf.errors import needed, one_line

with needed("ray"):
    import ray
    from ray.exceptions import RayError

log = logging.getLogger(__name__)

SHARED = (SWEEP_DIR, "LMF_CACHE", "OMP_NUM_THREADS")  # variables that jobs see as this process does


def launch(
    context: HydraContext,
    task: TaskFunction,
    configs: Sequence[DictConfig],
    init: DictConfig,
    remote: DictConfig,
) -> list[JobReturn]:
    """Run jobs, as many at once as their resources allow.

    A job whose process is killed starts again, at most ``remote.max_retries`` times, and then fails; the other jobs
    continue.

    Args:
        context, task: of Hydra.
        configs: one for each job.
        init: options of ``ray.init``.
        remote: options of ``ray.remote``.

    Returns:
        The outcomes of the jobs, in their order.
    """
    setup_globals()
    first = configs[0]
    configure_log(first.hydra.hydra_logging, first.hydra.verbose)
    Path(str(first.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        variables = {name: os.environ[name] for name in SHARED if name in os.environ}
        options: dict[str, Any] = {"logging_level": logging.ERROR, **plain(init)}
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": python_path(), **variables}}, **options)
    job = ray.remote(**plain(remote))(run)
    state, folder = Singleton.get_state(), os.getcwd()
    pending = []
    for config in configs:
        overrides = OmegaConf.to_container(config.hydra.overrides.task)
        assert isinstance(overrides, list)
        log.info(f"\t#{config.hydra.job.num} : {' '.join(filter_overrides(overrides))}")
        pending.append(job.remote(folder, context, config, task, state))
    return [outcome(reference, config) for reference, config in zip(pending, configs, strict=True)]


def run(folder: str, context: HydraContext, config: DictConfig, task: TaskFunction, state: dict[Any, Any]) -> JobReturn:
    """Run a job in a process of Ray, in the working directory of the multirun."""
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def outcome(reference: Any, config: DictConfig) -> JobReturn:
    """Wait for a job; if its process was killed too often, return that it failed."""
    try:
        done: JobReturn = ray.get(reference)
        return done
    except RayError as error:
        log.error(f"job {config.hydra.job.num}: {one_line(error)}")
        return JobReturn(cfg=config, hydra_cfg=config, status=JobStatus.FAILED, _return_value=error)


def plain(options: DictConfig) -> dict[str, Any]:
    """Return options as a plain dictionary."""
    content = OmegaConf.to_container(options, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
