import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from lmf.app import pipeline
from lmf.training.callbacks import ResumeCheckpoint
from lmf.training.module import SRModule

from ...conftest import ROOT, TINY

RUN = (*TINY, "schedule.iterations=5", "schedule.save_every=3")


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_weights(run, other, name):
    ours, theirs = checkpoint(run, name), checkpoint(other, name)
    assert (ours["epoch"], ours["global_step"]) == (theirs["epoch"], theirs["global_step"])
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for key, value in ours["state_dict"].items():
        assert torch.equal(value, theirs["state_dict"][key]), key


def best_score(run):
    (best,) = (s for key, s in checkpoint(run, "best")["callbacks"].items() if "val/psnr" in key)
    return best["best_model_score"].item()


@pytest.mark.parametrize("ema", ["null", "0.9"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_validation_that_was_interrupted_is_repeated(compose, tmp_path, monkeypatch, epoch, ema):
    options = (*RUN, f"schedule.ema={ema}", "schedule.optimizer.lr=1e-2", "+data.val_limit=2")
    pipeline.run(compose(*options, output=tmp_path / "whole"))
    validated = []

    def step(self, batch, batch_idx, dataloader_idx=0):
        validated.append((self.trainer.current_epoch, batch_idx))
        if interrupted and validated[-1] == (epoch, 1):
            raise SystemExit(137)
        return self.test_step(batch, batch_idx, dataloader_idx)

    monkeypatch.setattr(SRModule, "validation_step", step)
    interrupted = True
    with pytest.raises(SystemExit):
        pipeline.run(compose(*options, output=tmp_path / "part"))
    assert checkpoint(tmp_path / "part")["global_step"] == 5 * (epoch + 1)
    interrupted = False
    validated.clear()
    pipeline.run(compose(*options, "ckpt_path=last", output=tmp_path / "part"))
    assert validated == [(e, i) for e in range(epoch, 2) for i in range(2)]
    for name in ("last", "best"):
        assert_same_weights(tmp_path / "whole", tmp_path / "part", name)
    assert best_score(tmp_path / "part") == best_score(tmp_path / "whole")


def test_a_finished_run_is_not_validated_again(compose, tmp_path, monkeypatch):
    pipeline.run(compose(*RUN))
    monkeypatch.setattr(SRModule, "validation_step", lambda *args: pytest.fail("validated"))
    pipeline.run(compose(*RUN, "ckpt_path=last"))


def test_gradients_that_accumulate_are_not_cut(compose, tmp_path):
    pipeline.run(compose(*RUN, "+trainer.accumulate_grad_batches=2", "callbacks.last=null", "schedule.save_every=2",
                         "+trainer.max_steps=3"))  # fmt: skip
    saved = checkpoint(tmp_path / "run")  # steps after batches 2, 4 and 5 of the epoch
    assert saved["global_step"] == 3
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 5


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="every_n_train_steps must be at least 1, got 0"):
        ResumeCheckpoint(tmp_path / "last.ckpt", 0)


def start(output, *overrides, **options):
    """Start a run in another process, with ``options`` of Popen, and return when it has saved a checkpoint."""
    command = [sys.executable, str(ROOT / "run.py"), *RUN, f"hydra.run.dir={output}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    deadline = time.monotonic() + 120
    while not (output / "checkpoints" / "last.ckpt").is_file():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.fixture(autouse=True)
def one_thread():
    """As in the processes of `start`: sums over more threads differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


LONG = ("schedule.iterations=400", "schedule.epochs=1", "schedule.save_every=5", "data.workers=1")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_is_as_if_never_stopped(compose, tmp_path, number):
    process = start(tmp_path / "part", *LONG)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert 5 < checkpoint(tmp_path / "part")["global_step"] < 400
    assert sorted(p.name for p in (tmp_path / "part" / "checkpoints").iterdir()) == ["last.ckpt"]
    pipeline.run(compose(*RUN, *LONG, "ckpt_path=last", output=tmp_path / "part"))
    pipeline.run(compose(*RUN, *LONG, output=tmp_path / "whole"))
    assert_same_weights(tmp_path / "whole", tmp_path / "part", "last")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_during_the_last_validation_leaves_it_to_the_resumed_run(compose, tmp_path, number):
    options = ("schedule.epochs=1", "schedule.save_every=100", "data.val_crop=600")
    process = start(tmp_path / "part", *options)  # saved just before the validation
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    assert not (tmp_path / "part" / "checkpoints" / "best.ckpt").exists()
    pipeline.run(compose(*RUN, *options, "ckpt_path=last", output=tmp_path / "part"))
    pipeline.run(compose(*RUN, *options, output=tmp_path / "whole"))
    assert_same_weights(tmp_path / "whole", tmp_path / "part", "best")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.ddp
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_the_first(tmp_path, number):
    process = start(tmp_path / "run", *LONG, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
                    "data.workers=0")  # fmt: skip
    ranks = [pid for pid in children(process.pid) if is_running(pid)]
    assert ranks
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert checkpoint(tmp_path / "run")["global_step"] >= 5


@pytest.mark.ddp
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_ranks_is_one_signal(compose, tmp_path, number):
    """A terminal sends Ctrl-C to the whole process group, so every rank receives it."""
    options = (*LONG, "schedule.iterations=100", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
               "data.workers=0")  # fmt: skip
    process = start(tmp_path / "part", *options, start_new_session=True)
    os.killpg(process.pid, number)
    assert process.wait(60) == 128 + number, process.stderr.read().decode()
    stopped = checkpoint(tmp_path / "part")["global_step"]
    assert 5 < stopped < 100
    assert f"{number.name}: stopped after step {stopped}; resume from" in (tmp_path / "part" / "lmf.log").read_text()
    for name, more in (("part", ["ckpt_path=last"]), ("whole", [])):
        command = [sys.executable, str(ROOT / "run.py"), *RUN, *options, *more]
        subprocess.run([*command, f"hydra.run.dir={tmp_path / name}"], check=True, capture_output=True)
    assert checkpoint(tmp_path / "whole")["global_step"] == 100
    assert_same_weights(tmp_path / "whole", tmp_path / "part", "last")


@pytest.mark.slow
@pytest.mark.parametrize(("pause", "saved"), [(0.1, True), (1.5, False)])
def test_a_second_signal_exits_at_once_unless_it_is_a_repeat(tmp_path, pause, saved):
    """Training steps of 3 s, so that both signals arrive within one."""
    code = f"""
import os, sys, threading, time
from lmf.training.module import SRModule
step = SRModule.training_step
def slow(self, batch, batch_idx):
    if batch_idx == 6:
        for delay in (0.1, 0.1 + {pause}):
            threading.Timer(delay, os.kill, (os.getpid(), {int(signal.SIGTERM)})).start()
        time.sleep(3)
    return step(self, batch, batch_idx)
SRModule.training_step = slow
from lmf.app import cli
cli.main({[*RUN, *LONG, f"hydra.run.dir={tmp_path / 'run'}"]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert checkpoint(tmp_path / "run")["global_step"] == (7 if saved else 5)


@pytest.mark.slow
def test_a_rank_that_waits_in_vain_ends_with_its_parent(tmp_path):
    """The first rank dies while another is busy and does not communicate."""
    rank = "import os, time; from lmf.training.ranks import end_with_parent; " \
           "end_with_parent(os.getppid(), 0.1); print(os.getpid(), flush=True); time.sleep(120)"  # fmt: skip
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    pid = int(process.stdout.readline())
    time.sleep(1)
    assert is_running(pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
