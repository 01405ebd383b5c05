"""Pretrained models: each a ``.safetensors`` file with its card inside, and its CMSR tables beside it."""

from pathlib import Path


def bundled() -> dict[str, Path]:
    """The pretrained models' files by the names that `lmf.load` takes."""
    return {file.stem: file for file in sorted(Path(__file__).parent.glob("*.safetensors"))}
