"""Nodes for ComfyUI. Copy this file into ``custom_nodes`` and install lmf in ComfyUI's environment.

*Load LMF* loads a pretrained model or a file. *Upscale with LMF* enlarges by any factor. *LMF as upscale model* fixes a
whole factor and returns what ComfyUI's own node *Upscale Image (using Model)* accepts: a descriptor of spandrel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import lmf


class LoadLMF:
    CATEGORY, FUNCTION, RETURN_TYPES = "loaders", "load", ("LMF_MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"name": ([*lmf.list_models()],)},
            "optional": {"file": ("STRING", {"default": ""})},  # used instead of the name
        }

    def load(self, name: str, file: str = "") -> tuple[Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return (lmf.load_descriptor(file or name, device=device),)


class UpscaleLMF:
    CATEGORY, FUNCTION, RETURN_TYPES = "image/upscaling", "upscale", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        scale = {"default": 2.0, "min": 0.1, "max": 32.0, "step": 0.01}
        return {"required": {"model": ("LMF_MODEL",), "image": ("IMAGE",), "scale": ("FLOAT", scale)}}

    def upscale(self, model: Any, image: Tensor, scale: float) -> tuple[Tensor]:
        """Enlarge ``image`` (B, h, w, C) in [0, 1]."""
        return (model(image.movedim(-1, 1), scale=scale).movedim(1, -1).cpu(),)


class LMFAsUpscaleModel:
    CATEGORY, FUNCTION, RETURN_TYPES = "loaders", "convert", ("UPSCALE_MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("LMF_MODEL",), "scale": ("INT", {"default": 4, "min": 1, "max": 32})}}

    def convert(self, model: Any, scale: int) -> tuple[Any]:
        return (as_spandrel(model, scale),)


def as_spandrel(model: Any, scale: int) -> Any:
    """Return ``model``, which any scale suits, as a spandrel descriptor for one whole scale."""
    import spandrel

    class Architecture(spandrel.Architecture):
        def __init__(self) -> None:
            super().__init__(id=model.architecture, detect=lambda state: False)

        def load(self, state_dict: Any) -> Any:
            raise ValueError("weights alone do not describe this model; load its file with lmf.load_descriptor")

    sizes = model.size_requirements
    return spandrel.ImageModelDescriptor(
        model.model,
        model.model.state_dict(),
        architecture=Architecture(),
        purpose="SR",
        tags=[f"{model.parameters / 1e6:.1f}M"],
        supports_half=torch.float16 in model.dtypes,
        supports_bfloat16=torch.bfloat16 in model.dtypes,
        scale=scale,
        input_channels=model.input_channels,
        output_channels=model.output_channels,
        size_requirements=spandrel.SizeRequirements(minimum=sizes.minimum, multiple_of=sizes.multiple_of),
        tiling=spandrel.ModelTiling.SUPPORTED if model.tiling else spandrel.ModelTiling.DISCOURAGED,
        call_fn=lambda module, image: module.upscale(image, scale=scale),
    )


NODE_CLASS_MAPPINGS = {"LoadLMF": LoadLMF, "UpscaleLMF": UpscaleLMF, "LMFAsUpscaleModel": LMFAsUpscaleModel}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LoadLMF": "Load LMF",
    "UpscaleLMF": "Upscale with LMF",
    "LMFAsUpscaleModel": "LMF as upscale model",
}
