"""Pretrained models. Each is a ``.safetensors`` file that contains its card, with its CMSR tables beside it."""

from pathlib import Path


def bundled() -> dict[str, Path]:
    """Return the files of the pretrained models by the names that `lmf.load` accepts."""
    return {file.stem: file for file in sorted(Path(__file__).parent.glob("*.safetensors"))}
