"""Every command of the README and the documentation runs, on small pictures and for a few steps, or says why not."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf, open_dict

from ..conftest import ROOT, TINY
from .conftest import composed
from .pages import Command, commands, parse

COMMANDS = commands()
MAIN = ROOT / "lmf" / "__main__.py"
SUBCOMMANDS = ("upscale", "zoom", "models", "--help")

# Patterns of commands that no test runs, and why. They are checked as far as that goes without running them: a Hydra
# command is composed, a target is looked up in the Makefile, an extra in pyproject.toml.
NOT_RUN = {
    "make setup*": "installs gigabytes; CI starts with it",
    "make train": "would install the environment first; `lmf experiment=lmf_edsr` is the same and runs",
    "make test": "is what runs these tests",
    "make test-all": "is what runs these tests",
    "make check": "would install the environment first; CI runs it",
    "make docs": "would install the environment first; test_pages builds the site",
    "make weights *": "trains for hours",
    "pip install *": "installs gigabytes; CI installs the wheel into an empty environment",
    "source *": "changes nothing but the shell",
    "lmf zoom *": "serves until it is stopped; tests/web and tests/app run it",
    "lmf task=zoom *": "serves until it is stopped; tests/app runs it",
    "docker *": "needs Docker; tests/web runs docs/hosting/app.py",
    "python benchmarks/ratios.py*": "takes a minute; tests/benchmark runs it with a tiny model",
    "python benchmarks/cmsr.py*": "takes minutes; tests/benchmark runs it with small pictures",
    "python benchmarks/zoom.py*": "takes minutes; tests/web runs it with small pictures",
    "python benchmarks/startup.py": "tests/app runs it with one run",
    "lmf *data=div2k*": "downloads 4 GB and trains for days",
    "lmf *trainer.devices=8*": "needs 8 GPUs",
    "lmf -m sweep=conversion +rates*": "trains 24 models; the line above it in docs/methods.md runs three jobs of it",
    "lmf *launcher=submitit_slurm*": "needs Slurm",
    "lmf *launcher=ray*": "needs Ray; test_ray runs it where it is installed",
    "lmf task=dashboard*": "needs an account of W&B; tests/app/test_dashboard.py runs it with a stand-in server",
    "lmf *wandb.mode=online*": "needs an account of W&B; tests/app/test_wandb.py runs it with a stand-in server",
}

# What makes a command short. A command gets those options that its config has; what it says itself counts more.
SMALL = (
    *(option for option in TINY if option != "data.cache=null"),  # cached crops need a cache
    "encoder.layers=1",
    "encoder.growth=8",
    "encoder.embed=8",
    "encoder.depths=[2]",
    "encoder.heads=[2]",
    "schedule.cached_crops=4",
    "schedule.crop_side=24",
    "data.limit=1",
    "data.crop=96",
    "data.val_limit=1",
    "paths.cache=cache",
    "task.sizes=[[6,8]]",
    "task.repeats=1",
    "task.budget=0.1",
    "hydra.sweeper.trials=2",
)
# They need LIIF's published checkpoint or benchmark sets, which a developer may have beside the checkout.
REFERENCE = {"edsr-baseline-liif.pth": "weights/edsr-baseline-liif.pth", "data=benchmarks": "data/benchmark"}


def reason_not_to_run(command: Command) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if fnmatch.fnmatchcase(str(command), pattern)), None)


def is_hydra(command: Command) -> bool:
    return command.program == "lmf" and command.arguments[:1] not in [(name,) for name in SUBCOMMANDS]


def configs_of(arguments: Sequence[str]) -> list[DictConfig]:
    """The config of a command; of a multirun those of its first and its last job."""
    options = get_args_parser().parse_args(arguments)
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    if options.multirun:
        params = composed(*(o.input_line for o in overrides if not o.is_sweep_override())).hydra.sweeper.params or {}
        overrides = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()]) + overrides
    found = []
    for job in (0, -1) if options.multirun else (0,):
        own = []
        for o in overrides:
            swept = options.multirun and o.is_sweep_override()
            value = swept_value(o, job) if swept else ""
            own.append(f"{o.get_key_element()}={value}" if swept else o.input_line)
        found.append(composed(*own))
    return found


def swept_value(override: Override, job: int) -> str:
    """The value of a job, the first (0) or the last (-1); the end of an interval, which a search covers."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return str((value.start, value.end)[job])
    return list(override.sweep_string_iterator())[job]


def check(command: Command) -> None:
    """Fails if ``command`` cannot be right, without running it."""
    match command.program:
        case "lmf" if is_hydra(command):
            for config in configs_of(command.arguments):
                with open_dict(config):
                    del config["hydra"]  # which describes this process, not the command's
                OmegaConf.to_container(config, resolve=True)
        case "lmf":
            if not MAIN.is_file():
                pytest.skip("needs lmf/__main__.py")
            cli = importlib.import_module("lmf.app.cli")
            if command.arguments[0] == "upscale" and "--help" not in command.arguments:
                cli.upscale_parser().parse_args(command.arguments[1:])
            if command.arguments[0] == "zoom" and "--help" not in command.arguments:
                importlib.import_module("lmf.app.zoom").parser().parse_args(command.arguments[1:])
        case "make":
            subprocess.run(["make", "-n", *command.arguments], cwd=ROOT, capture_output=True, check=True)
        case "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            if "docs" not in extras:
                pytest.skip("needs the extras of pyproject.toml")
            assert command.arguments[0] == "install"
            assert re.fullmatch(r"\.(\[[\w,]+\])?", command.arguments[1])
            assert set(re.findall(r"\w+", command.arguments[1])) <= extras.keys()
        case "python" if command.arguments[0] == "-m":
            assert importlib.util.find_spec(command.arguments[1])
        case "python":
            assert (ROOT / command.arguments[0]).is_file()
        case "docker":
            files = [file for option, file in pairwise(command.arguments) if option == "-f"]
            assert command.arguments[0] in ("build", "run")
            assert all((ROOT / file).is_file() for file in files)
        case "source":
            assert command.arguments == (".venv/bin/activate",)
        case _:
            raise AssertionError(f"{command.page}: no test knows how to run {command}")


def shortened(arguments: Sequence[str]) -> list[str]:
    """``arguments`` of a Hydra command behind those of SMALL that its config has."""
    configs = configs_of(arguments)
    own_model = configs[0].task.name == "fit" and configs[0].init_from is None

    def applies(option: str) -> bool:
        key = option.lstrip("+").partition("=")[0]
        parent, _, last = key.rpartition(".")
        nodes = [OmegaConf.select(config, parent) for config in configs]
        if key == "schedule.cached_crops" and OmegaConf.select(configs[0], key) is None:
            return False  # null trains on pictures
        known = all(isinstance(node, DictConfig) and (option[0] == "+" or last in node) for node in nodes)
        return known and (own_model or not key.startswith(("encoder.", "decoder.")))

    flags = 1 if arguments[0] == "-m" else 0
    return [*arguments[:flags], *filter(applies, SMALL), *arguments[flags:]]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_is_right_as_far_as_one_can_tell(command):
    check(command)


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_no_exception_is_left_over(pattern):
    assert any(fnmatch.fnmatchcase(str(command), pattern) for command in COMMANDS)


@pytest.mark.parametrize(
    "line",
    [
        "lmv upscale photo.jpg --scale 2",
        "lmf upscale photo.jpg --scael 2",
        "lmf zoom photo.jpg --prot 2",
        "docker build -f docs/Dockerfile .",
        "lmf experiment=nonsense",
        "lmf experiment=lmf_edsr schedule.lerning_rate=1",
        "lmf task=test init=RUN",
        "lmf schedule.epochs=1,2",
        "lmf -m schedule.epocs=1,2",
        "lmf experiment=lmf_edsr --cfgs job",
        "make trian",
        "pip install '.[trian]'",
        "python notebooks/zom.py",
    ],
)
def test_a_mistake_is_found(line):
    (command,) = parse(line)
    with pytest.raises((Exception, SystemExit)):
        check(command)


@pytest.mark.slow
def test_every_shortening_is_an_option():
    encoders = [composed("schedule=decoder", f"encoder={name}") for name in ("edsr_baseline", "rdn", "swinir")]
    configs = [*encoders, composed("task=benchmark"), composed("search=optuna")]
    for option in SMALL:
        parent, _, last = option.lstrip("+").partition("=")[0].rpartition(".")
        nodes = [OmegaConf.select(config, parent) for config in configs]
        assert option[0] == "+" or any(isinstance(node, DictConfig) and last in node for node in nodes), option


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if reason_not_to_run(c) is None], ids=str)
def test_runs(command, place, environment, request):
    for word, path in REFERENCE.items():
        if word in str(command):
            target = place / ("data/benchmark" if word == "data=benchmarks" else word)
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(request.getfixturevalue("shared") / path)
    for name, value in command.environment:
        environment[name] = os.pathsep.join([value, environment[name]]) if name == "PYTHONPATH" else value
    if command.program == "lmf":
        arguments = shortened(command.arguments) if is_hydra(command) else list(command.arguments)
        if not MAIN.is_file() and not is_hydra(command):
            pytest.skip("needs lmf/__main__.py")
        words = [sys.executable, *(["-m", "lmf"] if MAIN.is_file() else [str(ROOT / "run.py")]), *arguments]
    else:
        words = [sys.executable if command.program == "python" else command.program, *command.arguments]
    where = ROOT if command.program == "make" else place
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
