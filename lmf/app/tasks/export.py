"""A model as one file to share."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from lmf import checkpoint
from lmf.app.tasks.common import checkpoint_file, load

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    if config.ckpt_path is None:
        raise ValueError(f"which model? give ckpt_path=: {checkpoint.SOURCES}")
    output = Path(config.output)
    if output.suffix != ".safetensors":
        raise ValueError(f"output={output}: must end in .safetensors")
    source = checkpoint_file(config)
    card: dict[str, Any] = checkpoint.read_card(source) if source.suffix == ".safetensors" else recipe(source)
    card |= facts(config.card)
    for file in config.results:
        card.setdefault("results", {}).update(results(Path(file)))
    model = load(config)
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(model, output, card, half=config.half)
    log.info(f"{output}: {output.stat().st_size / 2**20:.1f} MiB, {', '.join(card) or 'an empty card'}")


def recipe(source: Path) -> dict[str, Any]:
    """How the checkpoint at ``source`` came about, as far as run folders tell: every training, the first one first."""
    steps: list[dict[str, Any]] = []
    path: Path | None = source
    while path is not None and (file := path.parent.parent / "config.yaml").is_file():
        config = yaml.safe_load(file.read_text())
        init_from = config.get("init_from")
        steps.insert(
            0,
            {
                "schedule": config.get("schedule"),
                "seed": config.get("seed"),
                "init_from": init_from and Path(init_from).name,
            },
        )
        path = checkpoint.find(init_from) if init_from and Path(init_from).exists() else None
    return {"recipe": steps, **commit()} if steps else {}


def commit() -> dict[str, str]:
    """Which commit of the code is at work, if that is known."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return {"commit": subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()}
    except (OSError, subprocess.CalledProcessError):
        return {}


def facts(path: str | None) -> dict[str, Any]:
    """The content of a card file."""
    if path is None:
        return {}
    content = yaml.safe_load(Path(path).read_text())
    if not isinstance(content, dict):
        raise ValueError(f"card={path}: must be a mapping, such as 'data: my photographs'")
    return content


def results(path: Path) -> dict[str, dict[str, float]]:
    """``{"set5_x4": {"psnr": ..., "ssim": ..., ...}}`` of a results.json."""
    try:
        rows = json.loads(path.read_text())
        return {
            f"{row['set']}_x{row['scale']:g}": {k: round(v, 4) for k, v in row.items() if k.endswith(("psnr", "ssim"))}
            for row in rows
        }
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"results={path}: not a results.json of task=test") from error
