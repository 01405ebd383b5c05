"""Task ``upscale``: enlarges picture files."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from lmf.app.tasks.common import device_of, load, self_ensemble
from lmf.inference import files, planning
from lmf.precision import autocast


def run(config: DictConfig) -> None:
    """Enlarge the pictures of ``config.input`` and write them to ``config.output``.

    Raises:
        UserError: if an option is invalid, no model is chosen, or a picture fails.
    """
    options: dict[str, Any] = {
        "quality": config.quality,
        "subsampling": config.subsampling,
        "max_pixels": config.max_pixels,
        "tile": config.tile,
    }
    averaged = self_ensemble(config)
    planning.check_request(config.scale, config.size, config.format, **options)
    jobs = planning.plan(config.input, config.output, config.scale, config.size, config.format, config.overwrite)
    device = device_of(config)
    context = autocast(config.precision, device)
    failed = files.run(
        load(config).to(device),
        jobs,
        scale=config.scale,
        size=config.size,
        **options,
        self_ensemble=averaged,
        autocast=context,
    )
    files.check_failed(failed, len(jobs))
