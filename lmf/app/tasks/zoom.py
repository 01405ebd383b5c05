"""Task ``zoom``: serves a page that zooms into pictures."""

from __future__ import annotations

from omegaconf import DictConfig

import lmf
from lmf.app.tasks.common import device_of, source
from lmf.app.tasks.options import flag, items
from lmf.errors import needed


def run(config: DictConfig) -> None:
    """Serve the page until the process is interrupted.

    The page offers the model of the config, if one is chosen, and those of ``config.models``, by default all pretrained
    ones.

    Raises:
        MissingExtra: if the extra ``web`` is not installed.
        UserError: if an option is invalid, or the picture or a model cannot be read.
    """
    with needed("web"):
        from lmf import web
    chosen = source(config)
    models = [*lmf.list_models()] if config.models is None else items("models", config.models)
    settings = web.Settings(**{**config.limits, "hosts": tuple(items("limits.hosts", config.limits.hosts))})
    web.serve(
        config.input,
        [*dict.fromkeys(([] if chosen is None else [str(chosen)]) + models)],
        host=config.host,
        port=config.port,
        browser=flag("browser", config.browser),
        device=device_of(config),
        trust=config.trust,
        settings=settings,
    )
