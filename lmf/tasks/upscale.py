"""Enlarging pictures."""

from __future__ import annotations

from omegaconf import DictConfig

from lmf import upscale
from lmf.tasks.common import load


def run(config: DictConfig) -> None:
    upscale.check_request(config.scale, config.size, config.format, config.quality)
    jobs = upscale.plan(config.input, config.output, config.scale, config.size, config.format, config.overwrite)
    size = list(config.size) if config.size else None
    failed = upscale.run(load(config), jobs, scale=config.scale, size=size, quality=config.quality)
    if failed:
        raise ValueError(f"{failed} of {len(jobs)} pictures failed; each is named above")
