"""The package as it is shipped: metadata, and the wheel, installed where nothing else is."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from itertools import chain

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import lmf

from .conftest import ROOT, TINY

# What a checkout holds beside its sources.
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "wandb", "site")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def test_every_dependency_has_a_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    tested = {canonicalize_name(name): version for name, version in tested.items()}
    for requirement in map(Requirement, required):
        if requirement.name == project["name"]:  # an extra that contains another
            continue
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)]), requirement


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lmf.__version__
    assert f"\n## {lmf.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def succeed(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the repository, so that no earlier build is in it and none is left here."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "copy", ignore=IGNORED)
    build = [*PIP, "wheel", "--no-deps", "--wheel-dir", str(folder), str(folder / "copy")]
    done = subprocess.run(build, capture_output=True, text=True)
    if done.returncode and "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new virtual environment with the base install: its ``bin``."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    install(folder / "bin", str(wheel))
    yield folder / "bin"
    shutil.rmtree(folder)  # gigabytes


def install(binaries, requirement):
    succeed(binaries / "python", *PIP[1:], "install", "-c", ROOT / "constraints.txt", requirement)


def run(binaries, folder, *arguments, check=True):
    """The installed command, with no repository on Python's path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [binaries / "lmf", *arguments]
    if check:
        return succeed(*command, cwd=folder, env=env)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def files(folder, *patterns):
    return {str(path.relative_to(folder)) for pattern in patterns for path in folder.rglob(pattern)}


@pytest.mark.slow
def test_what_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"lmf/{name}" for name in files(ROOT / "lmf", "*.py", "*.cpp", "*.h", "*.safetensors", "*.yaml")}
    wanted |= {f"lmf/{name}" for name in files(ROOT / "lmf", "static/*")}
    wanted |= {f"lmf/conf/{name}" for name in files(ROOT / "conf", "*.yaml")}
    wanted |= {"lmf/py.typed", "lmf/weights/NOTICE"}
    own = {name for name in names if ".dist-info/" not in name}
    assert own == wanted
    assert {name.partition("/")[2] for name in names - own} >= {"licenses/LICENSE", "entry_points.txt"}
    assert wheel.name.startswith(f"lmf-{lmf.__version__}-")


@pytest.mark.slow
def test_the_base_install_enlarges(environment, tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(small).save(tmp_path / "photo (1).png")
    run(environment, tmp_path, "upscale", "photo (1).png", "--scale", "2.5", "-o", "out.png")
    made = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    assert np.abs(made - lmf.load("lm_liif_edsr").upscale(small, scale=2.5)).max() <= 1
    assert "lm_liif_edsr" in run(environment, tmp_path, "models").stdout
    assert run(environment, tmp_path, "--version").stdout == f"lmf {lmf.__version__}\n"


@pytest.mark.slow
def test_training_is_an_extra(environment, wheel, tmp_path):
    done = run(environment, tmp_path, "experiment=lmf_edsr", check=False)
    assert (done.returncode, done.stderr) == (1, "ERROR: hydra is not installed: pip install 'lmf[train]'\n")

    install(environment, f"{wheel}[train]")
    short = (*TINY, "experiment=lmf_edsr", "schedule.iterations=3", "schedule.epochs=1")
    for name, options in {"one": (), "two": ("trainer=ddp", "trainer.devices=2")}.items():
        run(environment, tmp_path, *short, *options, f"hydra.run.dir={name}")
        checkpoint = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 3
    run(environment, tmp_path, "task=test", "ckpt_path=one", *TINY, "data.scales=[2]")
