import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

if not torch.cuda.is_available():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # Triton's own emulation on the CPU, if set before Triton is imported

from lmf.kernels import build

from .wandb_server import WandbServer, serving

needs_compiler = pytest.mark.skipif(build.library() is None, reason="needs a C++ compiler")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

ROOT = Path(__file__).resolve().parents[1]

# A run of seconds: everything real, but small.
TINY = (
    "encoder.out_channels=8",
    "encoder.blocks=1",
    "decoder.depth=2",
    "decoder.hyper=[16]",
    "schedule.patch=12",
    "schedule.queries=36",
    "schedule.batch_size=4",
    "schedule.iterations=6",
    "schedule.epochs=2",
    "schedule.val_every=1",
    "schedule.save_every=4",
    "data.val_crop=48",
    "data.workers=0",
    "data.cache=null",
    "trainer.accelerator=cpu",
    "logger.wandb.mode=disabled",
    "callbacks.cost=null",
    "callbacks.pictures=null",
    "callbacks.progress=null",
    "+trainer.enable_progress_bar=false",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference material (goldens, benchmark sets, published weights) beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference material beside the repository")
    return folder


def composer(folder: Path) -> Callable[..., DictConfig]:
    """Return ``compose(*overrides, output=...)``, which composes a config that writes to ``output`` in ``folder``."""

    def composed(*overrides: str, output: Path | None = None) -> DictConfig:
        output = output or folder / "run"
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = hydra_compose(
                "config",
                [f"paths.output={output}", f"paths.runs={folder / 'runs'}", *overrides],
                return_hydra_config=True,
            )
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return config

    return composed


@pytest.fixture
def compose(tmp_path: Path) -> Callable[..., DictConfig]:
    """See `composer`."""
    return composer(tmp_path)


@pytest.fixture
def wandb_server(monkeypatch) -> Iterator[WandbServer]:
    """A stand-in for the W&B server that the real client of this process and its children talks to."""
    wandb = pytest.importorskip("wandb", reason="needs the extra train")
    wandb.teardown()  # a client that other tests have started keeps its server
    with serving() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server
        wandb.teardown()
