"""``search=optuna``: what is searched, and that a search continues."""

import csv
import json
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

pytest.importorskip("optuna", reason="needs the extra search")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lmf.app.notes import write_note
from lmf.app.search import Search, split
from lmf.errors import UserError


def parsed(*overrides):
    return OverridesParser.create().parse_overrides(list(overrides))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=1,2,foo", CategoricalDistribution(["1", "2", "foo"])),
        ("a=[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
        ("a=null,1", CategoricalDistribution(["null", "1"])),
        ("a=range(1,9)", IntDistribution(1, 8)),
        ("a=range(1,9,3)", IntDistribution(1, 7, step=3)),
        ("a=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("a=interval(0.1,0.9)", FloatDistribution(0.1, 0.9)),
        ("a=int(interval(1,9))", IntDistribution(1, 9)),
        ("a=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
    ],
)
def test_values_to_search(override, expected):
    space, fixed = split(parsed(override, "b=3", "+c=x"))
    assert space == {"a": expected}
    assert fixed == ["b=3", "+c=x"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["a=1"], "nothing to search; give a range"),
        (["a=glob(*)"], r"cannot search a=glob\(\*\)"),
        (["a=tag(log,interval(-1,1))"], "cannot search a=tag"),
    ],
)
def test_what_cannot_be_searched(overrides, message):
    with pytest.raises(UserError, match=message):
        split(parsed(*overrides))


class Launcher:
    """Runs jobs at once: writes (x - 3)^2 as their PSNR's loss, so that x = 3 is best; some fail or end the program."""

    def __init__(self, folder, fails=(), ends=()):
        self.folder, self.fails, self.ends, self.jobs = folder, fails, ends, []

    def launch(self, job_overrides, initial_job_idx):
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            self.jobs.append((number, list(overrides)))
            job = self.folder / str(number)
            job.mkdir(exist_ok=True)
            if number in self.ends:
                raise KeyboardInterrupt
            if number in self.fails:
                write_note(job, overrides, "out of memory", "x")
                continue
            x = next(float(o.partition("=")[2]) for o in overrides if o.startswith("x="))
            (job / "results.json").write_text(json.dumps([{"set": "a", "scale": 2, "psnr": 40 - (x - 3) ** 2}]))
            write_note(job, overrides, None, "x")


def search(folder, launcher, overrides=("x=interval(0,10)", "y=1"), **options):
    defaults = {"trials": 8, "parallel": 1, "metric": None, "sampler": "tpe", "seed": 0, "params": {}}
    defaults["storage"] = f"sqlite:///{folder}/search.db"
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}, "task": {"name": "fit"}})
    Search(**(defaults | options)).run(launcher, config, list(overrides))


def test_a_search_finds_the_best_value(tmp_path, caplog):
    caplog.set_level("INFO")
    launcher = Launcher(tmp_path)
    search(tmp_path, launcher, trials=25)
    assert [number for number, _ in launcher.jobs] == list(range(25))
    assert all("y=1" in overrides for _, overrides in launcher.jobs)
    values = [float(overrides[-1].partition("=")[2]) for _, overrides in launcher.jobs]
    assert min(abs(x - 3) for x in values[10:]) < 0.5
    assert f"best of 25 jobs: {min(range(25), key=lambda i: abs(values[i] - 3))} with" in caplog.text


def test_the_same_command_continues(tmp_path):
    whole = Launcher(tmp_path / "whole")
    search(tmp_path / "whole", whole)
    first, second = (Launcher(tmp_path / "parts", ends=ends) for ends in ((3,), ()))
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "parts", first)
    search(tmp_path / "parts", second)
    assert [number for number, _ in second.jobs] == [3, 4, 5, 6, 7]
    assert second.jobs[0] == first.jobs[-1]  # the interrupted job, with the same values
    assert first.jobs == whole.jobs[:4]
    again = Launcher(tmp_path / "parts")
    search(tmp_path / "parts", again)
    assert again.jobs == []  # complete
    search(tmp_path / "parts", again, trials=10)
    assert [number for number, _ in again.jobs] == [8, 9]
    known = [overrides for _, overrides in whole.jobs]
    assert not [job for job in again.jobs if job[1] in known]  # other random numbers than at the start


def test_failed_jobs_are_replaced_by_the_next_call(tmp_path, caplog):
    first = Launcher(tmp_path, fails=(1, 2))
    search(tmp_path, first, trials=4)
    assert len(first.jobs) == 4
    second = Launcher(tmp_path)
    search(tmp_path, second, trials=4)
    assert [number for number, _ in second.jobs] == [4, 5]


def test_several_at_once(tmp_path):
    batches = []

    class Batches(Launcher):
        def launch(self, job_overrides, initial_job_idx):
            batches.append(len(job_overrides))
            super().launch(job_overrides, initial_job_idx)

    search(tmp_path, Batches(tmp_path), trials=7, parallel=3)
    assert batches == [3, 3, 1]


def test_nothing_but_failures(tmp_path):
    with pytest.raises(UserError, match="none of the 2 jobs has a result in the column psnr"):
        search(tmp_path, Launcher(tmp_path, fails=(0, 1)), trials=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "hydra.sweeper.trials must be a whole number of at least 1, got 0"),
        ({"sampler": "magic"}, "hydra.sweeper.sampler must be one of tpe, random, cmaes, got 'magic'"),
        ({"storage": "nothing://"}, "hydra.sweeper.storage=nothing://"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        search(tmp_path, SimpleNamespace(), **options)


@pytest.mark.slow
def test_the_command(tmp_path):
    """Two short trainings, chosen by Optuna, and the table at the end."""
    import subprocess
    import sys

    from ..conftest import ROOT, TINY

    options = [*TINY, "name=s", f"paths.runs={tmp_path}/runs", "search=optuna", "hydra.sweeper.trials=2"]
    command = [sys.executable, str(ROOT / "run.py"), "-m", *options, "schedule.optimizer.lr=interval(1e-4,1e-3)"]
    for words in (("best of 2 jobs",), ()):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout + done.stderr for word in words)
    (table,) = tmp_path.glob("runs/s/sweep-*/summary.csv")
    with table.open() as file:
        assert len(list(csv.DictReader(file))) == 2
