"""Tests that errors of the user or the machine are one line and that bugs keep their traceback."""

import builtins
import errno
import subprocess
import sys

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf, read_write

from lmf.app import pipeline
from lmf.errors import UserError

from ..conftest import ROOT, TINY

HINT = "hydra.verbose=true shows the traceback"


@pytest.mark.parametrize(
    "task", [("task=test",), ("task=upscale", "input=a.png", "scale=2"), ("task=benchmark", "task.models=[bicubic]")]
)
@pytest.mark.parametrize("value", ["maybe", "3", "null", "[]"])
def test_a_self_ensemble_is_true_or_false(compose, tmp_path, caplog, task, value):
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, *task, "ckpt_path=lm_liif_edsr", f"self_ensemble={value}"))
    assert "self_ensemble must be true" in caplog.text
    assert not (tmp_path / "run" / "config.yaml").exists()


def instantiation(target, **options):
    with pytest.raises(InstantiationException) as error:
        instantiate({"_target_": target, **options})
    return error.value


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("x must be\n1, got 2"), "x must be 1, got 2"),
        (ConfigCompositionException("no key\nlerning_rate"), "no key lerning_rate"),
        (MisconfigurationException("no GPU"), "no GPU"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "a"), "Read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "Permission denied"),
        (OSError(errno.ENODEV, "No such device"), "No such device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_caused_by_user_or_machine(error, message):
    assert message in pipeline.explain(error)
    assert "\n" not in pipeline.explain(error)


def test_memory_that_the_cpu_does_not_have():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)
    assert "allocate memory" in pipeline.explain(error.value)


def test_instantiation_errors_show_their_root_cause():
    assert "Crop" in pipeline.explain(instantiation("lmf.data.Crop"))
    wrong = instantiation("torch.nn.Linear", in_features=1, out_features=1, colour=3)
    assert pipeline.explain(wrong).endswith("got an unexpected keyword argument 'colour'")
    with pytest.raises(Exception, match="nothing") as error:
        OmegaConf.to_container(OmegaConf.create({"a": "${nothing}"}), resolve=True)
    assert "nothing" in pipeline.explain(error.value)


class Faulty:
    """A class whose constructor has a bug, and so has the resolver below."""

    def __init__(self):
        self.missing  # noqa: B018


def test_a_bug_in_a_constructor_or_a_resolver_is_not_explained(monkeypatch):
    monkeypatch.setattr(builtins, "faulty_for_a_test", Faulty, raising=False)
    assert pipeline.explain(instantiation("builtins.faulty_for_a_test")) is None
    OmegaConf.register_new_resolver("faulty", lambda: {}["missing"], replace=True)
    with pytest.raises(Exception, match="missing") as error:
        OmegaConf.create({"a": "${faulty:}"}).a  # noqa: B018
    OmegaConf.clear_resolver("faulty")
    assert pipeline.explain(error.value) is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes differ"),
        TypeError("not callable"),
        KeyError("a"),
        AttributeError("a"),
        RuntimeError("mat1 and mat2"),
        AssertionError(),
        ZeroDivisionError(),
        OSError("no number"),
        FileNotFoundError(errno.ENOENT, "No such file", "internal"),
    ],
)
def test_a_bug_is_not_explained(error):
    assert pipeline.explain(error) is None


@pytest.fixture
def failing(monkeypatch):
    """Return ``failing(error)``, the override that makes the task raise ``error``."""

    def make(error):
        def fail(_):
            raise error

        monkeypatch.setattr(builtins, "fail_for_a_test", fail, raising=False)
        return "task.run=builtins.fail_for_a_test"

    return make


@pytest.mark.parametrize("kind", [ValueError, TypeError, OSError, FileNotFoundError, KeyError])
def test_a_bug_passes_through_the_pipeline(compose, failing, caplog, kind):
    with pytest.raises(kind, match="a bug"):
        pipeline.run(compose(failing(kind("a bug"))))
    assert not caplog.records


@pytest.mark.parametrize("error", [UserError("your file"), OSError(errno.ENOSPC, "disk full")])
def test_one_line_with_one_hint(compose, failing, caplog, error):
    with pytest.raises(SystemExit) as status:
        pipeline.run(compose(failing(error)))
    assert status.value.code == 1
    (record,) = caplog.records
    assert record.getMessage() == f"{error} ({HINT})"


def test_verbose_shows_the_traceback(compose, failing):
    with pytest.raises(UserError, match="your file"):
        pipeline.run(compose("hydra.verbose=true", failing(UserError("your file"))))


def test_a_failed_job_of_a_multirun_is_noted_without_the_hint(compose, failing, caplog, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "-m"])
    config = compose(failing(UserError("your file")))
    hydra = HydraConfig.get()
    with read_write(hydra):
        hydra.mode = RunMode.MULTIRUN
        hydra.runtime.output_dir = config.paths.output
    with pytest.raises(pipeline.JobError) as error:
        pipeline.run(config)
    assert str(error.value) == "your file"
    assert HINT in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+schedule.optimizer.colour=3"], "colour"),
        (["schedule.optimizer.lr=-1"], "learning rate"),
        (["schedule.scheduler.total_steps=-3"], "total_steps"),
        (["encoder.blocks=many"], "EDSR"),
        (["encoder.out_channels=0"], "out_channels must be at least 1"),
        (["decoder=diif", "decoder.slicing=none"], "slicing must be one of"),
        (["+trainer.strategy=nonsense"], "nonsense"),
        (["precision=7"], "7"),
        (["task=export", "output=a.safetensors", "ckpt_path=lm_liif_edsr", "card=nowhere.yaml"], "card=nowhere.yaml"),
        (["task=export", "output=a.safetensors", "ckpt_path=lm_liif_edsr", "results=[no.json]"], "results=no.json"),
    ],
)
def test_mistakes_are_caught(compose, caplog, overrides, message):
    tiny = [] if "task=export" in overrides else TINY
    if "decoder=diif" in overrides:
        tiny = [o for o in tiny if not o.startswith("decoder.")]
    with pytest.raises(SystemExit):
        pipeline.run(compose(*tiny, *overrides))
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert message in record.getMessage()
    assert "\n" not in record.getMessage()


def command(*overrides, cwd):
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *overrides], cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_on_both_sides(tmp_path):
    """The exit status is 1 in all cases; only bugs show a traceback, also if Hydra itself fails."""
    runs = f"paths.runs={tmp_path / 'runs'}"
    bug = command(runs, "task.run=json.loads", cwd=tmp_path)
    assert (bug.returncode, "Traceback" in bug.stderr, "TypeError" in bug.stderr) == (1, True, True)
    (tmp_path / "file").touch()
    for overrides in (["task=test"], ["experiment=nonsense"], ["schedule.lerning_rate=1"], ["a=b=c"],
                      [f"paths.runs={tmp_path / 'file'}"], ["-m", "task=test", "seed=1,2"]):  # fmt: skip
        done = command(*([] if "paths.runs" in overrides[0] else [runs]), *overrides, cwd=tmp_path)
        text = done.stdout + done.stderr
        assert done.returncode == 1
        assert "Traceback" not in text
        assert (HINT in text) is (overrides != ["a=b=c"])  # which is refused before Hydra starts
    assert "Traceback" in command(runs, "task=test", "hydra.verbose=true", cwd=tmp_path).stderr
