"""Enlarging pictures."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from lmf.app.tasks.common import device_of, load
from lmf.errors import UserError
from lmf.inference import files
from lmf.precision import autocast


def run(config: DictConfig) -> None:
    options: dict[str, Any] = {
        "quality": config.quality,
        "subsampling": config.subsampling,
        "max_pixels": config.max_pixels,
    }
    files.check_request(config.scale, config.size, config.format, **options)
    jobs = files.plan(config.input, config.output, config.scale, config.size, config.format, config.overwrite)
    size = list(config.size) if config.size else None
    device = device_of(config)
    failed = files.run(
        load(config).to(device),
        jobs,
        scale=config.scale,
        size=size,
        **options,
        tile=config.tile,
        autocast=autocast(config.precision, device),
    )
    if failed:
        raise UserError(f"{failed} of {len(jobs)} pictures failed; each is named above")
