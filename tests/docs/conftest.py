"""A folder with everything that the commands and examples of the documentation name."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

import lmf
from lmf import export
from lmf.app import pipeline  # noqa: F401 (registers the resolvers of the configs)
from lmf.checkpoint import save

from ..conftest import ROOT, TINY

RUN = "runs/lmf_edsr/2026-11-22_21-54-19"


def composed(*overrides: str) -> DictConfig:
    """The config of ``overrides``, with Hydra's own."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["paths.output=run", "paths.runs=runs", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # what a config says about itself
    return config


@pytest.fixture(scope="session")
def furnished(tmp_path_factory) -> Path:
    """``photo.jpg``, ``photos``, a trained ``RUN``, and the files that examples name."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for i, name in enumerate(("photo.jpg", "photos/a (1).png", "photos/b.png", "photos/c.png", "photos/more/d.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (12, 10 + i, 3), dtype=np.uint8))
        noise.resize((100 + 10 * i, 120), Image.Resampling.BICUBIC).save(path)
    command = [sys.executable, ROOT / "run.py", "experiment=lmf_edsr", f"hydra.run.dir={RUN}", *TINY]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(folder / RUN, folder / "RUN")
    save(lmf.load(folder / RUN), folder / "mine.safetensors")
    if find_spec("onnx") and find_spec("onnxscript"):
        export.save(lmf.load(folder / RUN), folder / "model.onnx")
    (folder / "card.yaml").write_text("data: my photographs\n")
    (folder / "results.json").write_text(json.dumps([{"set": "mine", "scale": 4, "psnr": 30.0, "ssim": 0.9}]))
    for name in (
        "notebooks/my_decoder.py",
        "notebooks/zoom.py",
        "docs/figures.py",
        "docs/enlarge_onnx.py",
        "docs/measure_onnx.py",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def place(furnished, tmp_path) -> Path:
    """Every test gets its own copy."""
    return Path(shutil.copytree(furnished, tmp_path / "place"))


@pytest.fixture
def environment() -> dict[str, str]:
    """Of a process that finds this checkout's package."""
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
