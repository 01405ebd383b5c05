"""Task ``upscale``: enlarges picture files."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import DictConfig

from lmf.app.tasks.common import devices_of, load
from lmf.app.tasks.options import flag
from lmf.inference import files, planning, workers
from lmf.precision import autocast
from lmf.training import ranks


def run(config: DictConfig) -> None:
    """Enlarge the pictures of ``config.input`` and write them to ``config.output``.

    Several devices of ``config.trainer`` share the pictures, each in a process, and so do several processes that
    torchrun or srun has started.

    Raises:
        UserError: if an option is invalid, no model is chosen, or a picture fails.
    """
    options: dict[str, Any] = {
        "quality": config.quality,
        "subsampling": config.subsampling,
        "max_pixels": config.max_pixels,
        "tile": config.tile,
    }
    averaged = flag("self_ensemble", config.self_ensemble)
    overwrite = flag("overwrite", config.overwrite)
    planning.check_request(config.scale, config.size, config.format, **options)
    size = None if config.size is None else list(config.size)  # a plain list, which other processes can read
    options |= {"scale": config.scale, "size": size, "self_ensemble": averaged}
    share = ranks.share()
    jobs = planning.plan(config.input, config.output, config.scale, config.size, config.format, overwrite, share)
    devices = devices_of(config)
    if share[1] > 1:  # each process has a device
        local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        devices = [devices[local % len(devices)]]
    options["autocast"] = autocast(config.precision, devices[0])
    model = load(config)
    if len(devices) > 1 and len(jobs) > 1:
        failed = workers.run(model, jobs, devices, **options)
    else:
        failed = files.run(model.to(devices[0]), jobs, **options)
    files.check_failed(failed, len(jobs))
