from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from lmf.data import DataError, EvalSettings, FileSettings, Folder, Sampling, SRDataModule

SMALL: dict[str, Any] = {
    "batch_size": 4,
    "iterations": 5,
    "sampling": Sampling(patch=8, queries=10),
    "test_settings": EvalSettings(scales=[2, 3.7]),
    "val_settings": EvalSettings(scales=[2], protocol="raw", lr="pil"),
    "workers": 0,
}


def module(photos: Path, tmp_path: Path, **options: Any) -> SRDataModule:
    source = Folder(photos)
    sets = {"val": {"photos": source}, "test": {"photos": source, "more": source}}
    return SRDataModule(**({"train": source, **sets, "files": FileSettings(tmp_path / "cache")} | SMALL | options))


class Recorder(lightning.LightningModule):
    """A module that records its batches."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[dict] = []
        self.evaluated: list[tuple[int, str | None, tuple[int, ...]]] = []
        self.stop_after = stop_after

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        if len(self.batches) == self.stop_after:
            raise KeyError("killed")
        self.batches.append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        shape = tuple(batch["hr"].shape) if batch else ()
        self.evaluated.append((dataloader_idx, batch.get("name"), shape))

    def test_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated.append((dataloader_idx, batch["name"], tuple(batch["hr"].shape)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Diary(lightning.Callback):
    """A recorder that writes the records of a rank to disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Recorder) -> None:  # type: ignore[override]
        notes = [(batch["number"], batch["target"]) for batch in pl_module.batches], pl_module.evaluated
        torch.save(notes, self.folder / f"rank{trainer.global_rank}.pt")


def trainer(tmp_path: Path, **options: Any) -> lightning.Trainer:
    settings = {"max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "default_root_dir": tmp_path}
    return lightning.Trainer(**(settings | options))  # type: ignore[arg-type]


def test_training_batches(photos: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    trainer(tmp_path, enable_checkpointing=False).fit(recorder, module(photos, tmp_path))
    assert [batch["number"] for batch in recorder.batches] == list(range(15))
    batch = recorder.batches[0]
    assert {key: tuple(value.shape) for key, value in batch.items() if key != "number"} == {
        "lr": (4, 3, 8, 8),
        "coord": (4, 10, 2),
        "cell": (4, 2),
        "target": (4, 10, 3),
    }
    assert all(value.dtype == torch.float32 for key, value in batch.items() if key != "number")
    assert [name for _, name, _ in recorder.evaluated] == ["0", "1", "2", "3", "4"] * 3


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("killed", [2, 5, 8])
def test_a_killed_run_goes_on_with_the_same_batches(photos: Path, tmp_path: Path, killed: int, workers: int) -> None:
    straight = Recorder()
    trainer(tmp_path, enable_checkpointing=False).fit(straight, module(photos, tmp_path))
    first = Recorder(stop_after=killed)
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    with pytest.raises(KeyError):
        trainer(tmp_path, callbacks=[checkpoint]).fit(first, module(photos, tmp_path, workers=workers))
    second, data = Recorder(), module(photos, tmp_path, workers=workers)
    data.resume(killed)
    trainer(tmp_path, enable_checkpointing=False).fit(
        second, data, ckpt_path=tmp_path / "last.ckpt", weights_only=False
    )
    seen = first.batches + second.batches
    assert [batch["number"] for batch in seen] == list(range(15))
    for ours, theirs in zip(seen, straight.batches, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ("lr", "coord", "cell", "target"))


@pytest.mark.parametrize("overfit", [2, 0.5])
def test_overfitting_repeats_the_same_batches(photos: Path, tmp_path: Path, overfit: float) -> None:
    recorder = Recorder()
    options = {"enable_checkpointing": False, "overfit_batches": overfit, "use_distributed_sampler": False}
    trainer(tmp_path, **options).fit(recorder, module(photos, tmp_path))
    assert [batch["number"] for batch in recorder.batches] == [0, 1] * 3
    for batch, first in zip(recorder.batches[2:], recorder.batches, strict=False):
        assert all(torch.equal(batch[key], first[key]) for key in ("lr", "coord", "cell", "target"))
    assert [name for _, name, _ in recorder.evaluated] == ["0", "1"] * 3


def test_limits_of_batches(photos: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    limits = {"limit_train_batches": 0.4, "limit_val_batches": 1, "limit_test_batches": 0.7}
    trained = trainer(tmp_path, enable_checkpointing=False, **limits)
    trained.fit(recorder, module(photos, tmp_path))
    assert [batch["number"] for batch in recorder.batches] == list(range(6))
    assert [name for _, name, _ in recorder.evaluated] == ["0"] * 3
    recorder.evaluated.clear()
    trained.test(recorder, module(photos, tmp_path), verbose=False)
    assert [name for _, name, _ in recorder.evaluated] == ["0", "1", "2"] * 4


@pytest.mark.parametrize("killed", [2, 4, 5])
def test_a_killed_run_with_limits_goes_on_with_the_same_batches(photos: Path, tmp_path: Path, killed: int) -> None:
    first, second = Recorder(stop_after=killed), Recorder()
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    with pytest.raises(KeyError):
        trainer(tmp_path, callbacks=[checkpoint], limit_train_batches=3).fit(first, module(photos, tmp_path))
    data = module(photos, tmp_path)
    data.resume(killed)
    trainer(tmp_path, enable_checkpointing=False, limit_train_batches=3).fit(
        second, data, ckpt_path=tmp_path / "last.ckpt", weights_only=False
    )
    assert [batch["number"] for batch in first.batches + second.batches] == list(range(9))


@pytest.mark.parametrize("limit", ["limit_train_batches", "limit_val_batches", "overfit_batches"])
def test_a_fraction_of_no_batch_is_refused_by_name(photos: Path, tmp_path: Path, limit: str) -> None:
    with pytest.raises(DataError, match=rf"trainer\.{limit}=0\.1 leaves none of 5 batches"):
        trainer(tmp_path, enable_checkpointing=False, **{limit: 0.1}).fit(Recorder(), module(photos, tmp_path))


@pytest.mark.ddp
def test_two_processes_share_the_work(photos: Path, tmp_path: Path) -> None:
    alone = Recorder()
    trainer(tmp_path, enable_checkpointing=False, max_epochs=2).fit(alone, module(photos, tmp_path))
    options = {"strategy": "ddp_spawn", "devices": 2, "max_epochs": 2, "callbacks": [Diary(tmp_path)]}
    trainer(tmp_path, enable_checkpointing=False, **options).fit(Recorder(), module(photos, tmp_path))
    (first, seen), (second, seen_too) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert [number for number, _ in first] == [number for number, _ in second] == list(range(10))
    for (_, a), (_, b), batch in zip(first, second, alone.batches, strict=True):
        assert torch.equal(torch.cat([a, b]), batch["target"])
    assert [name for _, name, _ in seen] == ["0", "2", "4"] * 2
    assert [name for _, name, _ in seen_too] == ["1", "3", None] * 2


def test_test_sets(photos: Path, tmp_path: Path) -> None:
    recorder, data = Recorder(), module(photos, tmp_path)
    trainer(tmp_path).test(recorder, data, verbose=False)
    assert [images.name for images in data.test_sets] == ["photos_x2", "photos_x3.7", "more_x2", "more_x3.7"]
    assert [index for index, _, _ in recorder.evaluated] == [n for n in range(4) for _ in range(5)]
    assert recorder.evaluated[5] == (1, "0", (1, 3, 37, 44))  # floor(40 / 3.7) = 10, floor(48 / 3.7) = 12


def test_test_sets_are_selected(photos: Path, tmp_path: Path) -> None:
    data = module(photos, tmp_path, test_settings=EvalSettings(["more"], [3]))
    data.setup("test")
    assert [images.name for images in data.test_sets] == ["more_x3"]
    with pytest.raises(DataError, match="some of photos, more, got other"):
        module(photos, tmp_path, test_settings=EvalSettings(["other"])).setup("test")
    with pytest.raises(DataError, match=r"got mroe; did you mean more\?$"):
        module(photos, tmp_path, test_settings=EvalSettings(["mroe"])).setup("test")


def test_each_stage_checks_its_own_files_alone(photos: Path, tmp_path: Path) -> None:
    missing = Folder(tmp_path / "missing")
    data = module(photos, tmp_path, train=missing)
    data.setup("validate")
    data.setup("test")
    with pytest.raises(DataError, match="no such folder of images"):
        data.setup("fit")
    data = module(photos, tmp_path, test={"gone": missing, "photos": Folder(photos)})
    data.setup("fit")
    with pytest.raises(DataError, match=r"gone: no such folder.*data\.sets=\[photos\]"):
        data.setup("test")


def test_nothing_to_train_on(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training images"):
        module(photos, tmp_path, train=None).setup("fit")
    with pytest.raises(DataError, match=r"setup\('fit'\)"):
        module(photos, tmp_path).train_dataloader()


def test_training_images_must_fit_the_largest_crop(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0\.png is 40 x 48, but both sides must be at least 44"):
        module(photos, tmp_path, sampling=Sampling(patch=11)).setup("fit")
    data = module(photos, tmp_path, sampling=Sampling(patch=11), files=FileSettings(on_corrupt="skip"))
    data.setup("fit")
    assert data.samples is not None
    assert len(data.samples.images) == 1


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"workers": -1}])
def test_wrong_settings(photos: Path, tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(DataError, match="must"):
        module(photos, tmp_path, **wrong)
