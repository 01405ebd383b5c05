import logging
import os
import sys

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf, read_write

from lmf.app import runs
from lmf.errors import UserError

from ..conftest import ROOT


def make_run(folder, age):
    last = folder / runs.LAST
    last.parent.mkdir(parents=True)
    last.write_bytes(b"")
    os.utime(last, (1000 - age, 1000 - age))
    return folder


def test_new_folders_never_coincide(tmp_path):
    made = set()
    for _ in range(5):
        runs._new.cache_clear()  # like five processes
        made.add(runs.run_dir(str(tmp_path), "x", "fit", None))
    assert len(made) == 5
    assert len(list((tmp_path / "x").iterdir())) == 5


def test_one_process_keeps_its_folder(tmp_path):
    runs._new.cache_clear()
    assert runs.run_dir(str(tmp_path), "x", "fit", None) == runs.run_dir(str(tmp_path), "x", "fit", None)


def test_last_is_the_newest_checkpoint(tmp_path):
    make_run(tmp_path / "x" / "b", age=100)
    newest = make_run(tmp_path / "x" / "a", age=1)
    (tmp_path / "x" / "z").mkdir()  # died before its first checkpoint
    assert runs.run_dir(str(tmp_path), "x", "fit", "last") == str(newest)
    assert runs.last_run(tmp_path / "y") is None


def test_a_run_folder_is_continued_in_place(tmp_path):
    folder = make_run(tmp_path / "x" / "a", age=1)
    assert runs.run_dir(str(tmp_path), "other", "fit", str(folder)) == str(folder)


def test_caches_follow_the_environment(compose, monkeypatch):
    monkeypatch.delenv("LMF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    config = compose()
    assert config.paths.cache == config.data.module.files.cache == "/xdg/lmf"
    monkeypatch.setenv("LMF_CACHE", "/own")
    assert compose().paths.cache == "/own"
    monkeypatch.setenv("LMF_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert compose().paths.cache == "/home/someone/.cache/lmf"


def test_a_checkpoint_file_starts_a_new_run(tmp_path):
    runs._new.cache_clear()
    folder = make_run(tmp_path / "x" / "a", age=1)
    assert runs.run_dir(str(tmp_path), "x", "fit", str(folder / runs.LAST)) != str(folder)


def test_started_ranks_use_the_folder_they_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv(runs.RUN_DIR, "/somewhere")
    assert runs.run_dir(str(tmp_path), "x", "fit", None) == "/somewhere"


def test_ranks_of_an_external_launcher_agree(tmp_path, monkeypatch):
    runs._new.cache_clear()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    first = runs.run_dir(str(tmp_path), "x", "fit", None)
    runs._new.cache_clear()
    assert runs.run_dir(str(tmp_path), "x", "fit", None) == first


@pytest.mark.parametrize("task", ["test", "upscale", "export", "calibrate", "benchmark"])
@pytest.mark.parametrize("ckpt_path", ["last", "FOLDER"])
def test_only_training_goes_on_in_the_folder_it_reads(tmp_path, task, ckpt_path):
    runs._new.cache_clear()
    folder = make_run(tmp_path / "x" / "a", age=1)
    new = runs.run_dir(str(tmp_path), "x", task, ckpt_path.replace("FOLDER", str(folder)))
    assert new != str(folder)
    assert os.path.dirname(new) == str(tmp_path / "x")
    assert list(os.scandir(new)) == []


@pytest.mark.parametrize(("task", "same"), [("fit", True), ("test", False)])
def test_the_config_asks_for_that_folder(tmp_path, task, same):
    runs._new.cache_clear()
    folder = make_run(tmp_path / "x" / "a", age=1)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = [f"task={task}", f"ckpt_path={folder}", f"paths.runs={tmp_path}"]
        config = hydra_compose("config", overrides, return_hydra_config=True)
        assert (config.hydra.run.dir == str(folder)) is same


def test_results_are_not_written_over(compose, tmp_path):
    compose()
    runs.check_output(tmp_path / "new")
    folder = make_run(tmp_path / "a", age=1)
    with pytest.raises(UserError, match="holds a training run"):
        runs.check_output(folder)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match=r"results\.json exists already"):
        runs.check_output(tmp_path)


@pytest.mark.parametrize("task", ["test", "upscale", "export", "calibrate", "benchmark", "fit"])
def test_a_run_folder_is_refused_before_anything_is_written(tmp_path, task, capsys):
    folder = make_run(tmp_path / "a", age=1)
    config = {"task": {"name": task}, "ckpt_path": None, "hydra": {"run": {"dir": str(folder)}}}
    callback = runs.OutputCallback()
    with pytest.raises(SystemExit):
        callback.on_run_start(OmegaConf.create(config))
    assert f"{folder} holds a" in capsys.readouterr().err
    callback.on_run_start(OmegaConf.merge(config, {"hydra": {"run": {"dir": str(tmp_path / "new")}}}))
    resumed = OmegaConf.merge(config, {"ckpt_path": str(folder)})
    if task == "fit":
        callback.on_run_start(resumed)
    else:
        with pytest.raises(SystemExit):
            callback.on_run_start(resumed)


def test_the_first_rank_logs_for_all(compose, tmp_path, monkeypatch):
    level = logging.getLogger("lmf").level
    try:
        for rank, logged in (("0", True), ("1", False)):
            monkeypatch.setenv("LOCAL_RANK", rank)
            monkeypatch.delenv(runs.FIRST_RANK, raising=False)
            compose()
            with runs.job(tmp_path):
                assert logging.getLogger("lmf.checkpoint.files").isEnabledFor(logging.WARNING) is logged
    finally:
        logging.getLogger("lmf").setLevel(level)


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["-m", "seed=1,2"], []),
        (["--multirun", "--config-dir", "my conf", "a=b"], ["--config-dir", "my conf"]),
        (["-cn", "other", "-m", "a='x=y, z'", "~b", "+c=[1,2]"], ["-cn", "other"]),
        (["--config-name=other", "a=1"], ["--config-name=other"]),
    ],
)
def test_flags_keep_their_values(arguments, flags):
    assert runs.flags(arguments) == flags


AWKWARD = ["a=b", "a b", "a, b", "it's", 'say "a"', "(1) [2]", "ü=ö", "a\\b", "$x", "50%", "#1", "a:b", "{c}"]


def quoted(value):
    """Quote ``value`` as Hydra's documentation requires: single quotes, escaped quotes and backslashes before them."""
    return "'" + value.replace("'", "\\'") + "'"


@pytest.mark.parametrize("value", AWKWARD)
def test_started_ranks_get_the_job_as_it_is(compose, monkeypatch, value, tmp_path):
    """The ``sys.argv`` that `runs.job` sets composes to the same values, even with special characters."""
    override = f"data.val_root={quoted(value)}"
    config = compose("data=folder", override)
    assert config.data.val_root == value
    hydra = HydraConfig.get()
    with read_write(hydra):
        hydra.mode = RunMode.MULTIRUN
    monkeypatch.setattr(sys, "argv", ["run.py", "-m", "data=folder,bundled", override])
    monkeypatch.delenv(runs.RUN_DIR, raising=False)
    with runs.job(tmp_path):
        argv = sys.argv
    assert argv[0] == "run.py"
    assert "-m" not in argv
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert hydra_compose("config", argv[1:]).data.val_root == value
