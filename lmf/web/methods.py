"""The methods that the page offers: the models, then bicubic and nearest."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmf.benchmark.cost import count
from lmf.checkpoint import find, load, short_name
from lmf.decoders import Bicubic
from lmf.decoders.bicubic import ImageLatent
from lmf.encoders import Identity
from lmf.errors import UserError
from lmf.grid import Grid, nearest, take
from lmf.model import SRModel
from lmf.renderers.cmsr import TableError, Tables
from lmf.renderers.cmsr.tables import beside

log = logging.getLogger(__name__)

BASELINES = ("bicubic", "nearest")
_SIDE, _SCALE = 32, 8.0  # of the picture whose multiply-adds are counted; SwinIR's windows need 8


class Nearest(Bicubic):
    """Shows the pixels of the image as squares."""

    receptive_field = 1

    def decode(self, latent: ImageLatent, coord: Tensor, cell: Tensor) -> Tensor:
        return take(latent.pixels, nearest(coord, latent.size))

    def render(self, latent: Any, target: Grid, cell: Tensor) -> Tensor:
        centres = zip(target.axes(cell.device, cell.dtype), latent.size, strict=True)
        row, col = (nearest(torch.stack([c, torch.zeros_like(c)], dim=-1), (n, 1)) for c, n in centres)
        rgb: Tensor = latent.pixels[:, row[:, None], col].permute(0, 3, 1, 2)
        return rgb


@dataclass(frozen=True)
class Rates:
    """Multiply-adds: of the encoder and the latent per LR pixel, of rendering per output pixel."""

    encoder: float
    latent: float
    render: float


class Method:
    """A way to enlarge pictures; its model is loaded when it is first used.

    Args:
        name: shown in the page, and how requests name it.
        source: what `lmf.load` accepts; None for a baseline.
        device: device of the model.
        trust: see `lmf.load`.
    """

    def __init__(
        self, name: str, source: str | os.PathLike[str] | None, device: torch.device, trust: Sequence[str] = ()
    ) -> None:
        self.name, self.source, self.device, self.trust = name, source, device, trust

    @cached_property
    def model(self) -> SRModel:
        """The model, in evaluation mode.

        Raises:
            UserError: if it cannot be loaded, or its views cannot be rendered alone.
        """
        if self.source is None:
            return SRModel(Identity(), {"bicubic": Bicubic, "nearest": Nearest}[self.name]()).eval().to(self.device)
        model = load(self.source, trust=self.trust, device=self.device)
        if not model.decoder.pointwise:
            raise UserError(
                f"{self.name}: a view would take as long as the whole picture, because each colour of "
                f"{type(model.decoder).__name__} depends on all pixels; enlarge the picture with lmf upscale"
            )
        return model

    def warm_up(self) -> None:
        """Load the model and render a few pixels, so that its first frame does not wait for compiling a kernel."""
        with torch.inference_mode():
            self.model.render(torch.zeros(1, 3, 8, 8, device=self.model.device), (16, 16))
        self.rates  # noqa: B018 (computed here)

    @property
    def has_tables(self) -> bool:
        """Whether tables for multi-scale rendering lie beside the model."""
        return self.source is not None and beside(find(self.source)).is_file()

    @cached_property
    def tables(self) -> Tables | None:
        """Tables for multi-scale rendering, if they lie beside the model and are for it."""
        if self.source is None or not self.has_tables:
            return None
        try:
            tables = Tables.of(beside(find(self.source)))
            tables.check(self.model)
        except TableError as error:
            log.warning(f"no multi-scale rendering with {self.name}: {error}")
            return None
        return tables

    @cached_property
    def rates(self) -> Rates:
        """Multiply-adds per pixel."""
        cost = count(self.model, (_SIDE, _SIDE), scale=_SCALE)
        lr = _SIDE**2
        return Rates(cost.encoder_macs / lr, cost.latent_macs / lr, cost.render_macs / cost.queries)


def methods(
    sources: Sequence[str | os.PathLike[str]], device: torch.device, trust: Sequence[str] = ()
) -> Mapping[str, Method]:
    """Return the methods by name: ``sources``, the first of which the page starts with, then the baselines.

    Args:
        sources: names of pretrained models, run folders or checkpoints.
        device: device of the models.
        trust: see `lmf.load`.

    Raises:
        UserError: if a model does not exist, or two have the same name.
    """
    found: dict[str, Method] = {}
    for source in sources:
        find(source)
        name = short_name(source)
        if name in found or name in BASELINES:
            raise UserError(f"{source}: another model is called {name!r} too; rename one of them")
        found[name] = Method(name, source, device, trust)
    return found | {name: Method(name, None, device) for name in BASELINES}
