import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lmf.training.callbacks import AtomicCheckpointIO


@pytest.fixture
def io() -> AtomicCheckpointIO:
    return AtomicCheckpointIO()


def test_saves_into_a_new_folder_and_loads(io, tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    io.save_checkpoint({"x": torch.arange(3)}, path)
    assert io.load_checkpoint(path, weights_only=True)["x"].tolist() == [0, 1, 2]
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_clear_line_and_keeps_the_previous_checkpoint(io, tmp_path, monkeypatch, call):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=rf"disk full while saving {path} .*; the previous checkpoint is untouched"):
        io.save_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert io.load_checkpoint(path, weights_only=True)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_write_that_really_fails_half_way(io, tmp_path):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large while saving"):
            io.save_checkpoint({"x": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert io.load_checkpoint(path, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_a_kill_while_writing_keeps_the_previous_checkpoint_and_the_next_process_cleans_up(io, tmp_path):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)
    program = """
        import os, signal, sys
        from lmf.training.callbacks import AtomicCheckpointIO
        os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
        AtomicCheckpointIO().save_checkpoint({"step": 2}, sys.argv[1])
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(path)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert io.load_checkpoint(path, weights_only=True)["step"] == 1
    program = """
        import sys
        from lmf.training.callbacks import AtomicCheckpointIO
        AtomicCheckpointIO().save_checkpoint({"step": 3}, sys.argv[1])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(path)], check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert io.load_checkpoint(path, weights_only=True)["step"] == 3


def test_model_checkpoint_overwrites_best_and_last(module, data, make_trainer, tmp_path):
    options = {"dirpath": tmp_path, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor="val/psnr", mode="max", **options)
    last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **options)
    recent = ModelCheckpoint(filename="last", every_n_train_steps=1, **options)
    trainer = make_trainer(best, last, recent, plugins=[AtomicCheckpointIO()], max_epochs=4, enable_checkpointing=True)
    trainer.fit(module, datamodule=data)  # val/psnr 20, 30, 25, 26
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".ckpt") == ["best.ckpt", "last.ckpt"]
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == 1
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8
