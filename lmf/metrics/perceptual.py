"""Perceptual metrics, LPIPS and DISTS, by torchmetrics. They need the extra ``lmf[metrics]`` and network weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Literal, get_args
from urllib.error import URLError

import torch
from torch import Tensor, nn

from lmf.errors import UserError, did_you_mean, needed, one_line

Name = Literal["lpips", "dists"]


def perceptual(names: Iterable[str]) -> dict[str, Callable[[Tensor, Tensor], float]]:
    """Load perceptual metrics.

    The networks are those of torchmetrics: LPIPS on AlexNet, DISTS on VGG-16. torchvision downloads their weights on
    the first use and keeps them in ``$TORCH_HOME``.

    Args:
        names: some of ``"lpips"`` and ``"dists"``.

    Returns:
        A function for each name that compares two pictures (1, 3, H, W) in [0, 1]. Lower values are better.

    Raises:
        UserError: if a name is unknown, or the weights can neither be found nor downloaded.
        MissingExtra: if torchvision is not installed.
    """
    chosen = list(names)
    if unknown := [name for name in chosen if name not in get_args(Name)]:
        known, similar = ", ".join(get_args(Name)), did_you_mean(unknown, get_args(Name))
        raise UserError(f"perceptual metrics must be some of {known}, got {', '.join(unknown)}{similar}")
    return {name: partial(distance, network(name)) for name in chosen}


@torch.inference_mode()
def distance(net: nn.Module, sr: Tensor, hr: Tensor) -> float:
    """Return the distance between two pictures (1, 3, H, W) in [0, 1]; values outside are clamped."""
    return float(net(*(picture.to("cpu", torch.float32).clamp(0, 1) for picture in (sr, hr))))


@cache
def network(name: Name) -> nn.Module:
    """Return the network of a metric, which maps two pictures in [0, 1] to their distance.

    Raises:
        UserError: see `perceptual`.
    """
    with needed("metrics"):
        try:
            import torchvision  # noqa: F401 (torchmetrics would report it in its own words)
        except RuntimeError as error:  # a build for another torch
            raise UserError(
                f"{name}: torchvision does not fit this torch {torch.__version__}: {one_line(error)}"
            ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build(name).eval()
    except (URLError, OSError) as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise UserError(
            f"{name}: its weights are not in {folder} and cannot be downloaded ({one_line(error)}); run once online"
        ) from None


def build(name: Name) -> nn.Module:
    """Create the network of a metric, which may download weights."""
    if name == "lpips":
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
    from torchmetrics.functional.image.dists import DISTSNetwork  # the metric loads it anew for every picture

    return DISTSNetwork()
