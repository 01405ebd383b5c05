"""The data of a run: training samples, validation sets, test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from lmf.data.augment import BatchAugment
from lmf.data.evaluation import LR, EvalSet, Protocol
from lmf.data.features import FeatureSamples
from lmf.data.folder import DataError, ImageFolder, OnCorrupt
from lmf.data.loader import TrainLoader, eval_loader
from lmf.data.sampling import TrainSamples, check_sampling, crop_size
from lmf.data.sources import Folder, Source


class SRDataModule(LightningDataModule):
    """Training samples, and validation and test sets at several scales each.

    Training batches, once on the device: {"lr": (B, 3, p, p), "coord": (B, Q, 2), "cell": (B, 2),
    "target": (B, Q, 3), "number": int}, and with ``scenes`` also "feat": (B, C, p, p) float16.
    Evaluation batches: {"lr": (1, 3, h, w), "hr": (1, 3, H, W), "name": str}. All else float32, colours in [0, 1].

    Args:
        train: pictures to train on; None if this data is for testing only.
        val: sets to validate on, by name, each at every one of ``val_scales``.
        test: sets to test on, by name, each at every one of ``scales``.
        seed: of the training samples.
        batch_size: samples per step, over all devices.
        iterations: steps per epoch.
        patch: side of the LR patches in pixels.
        queries: target pixels per sample.
        min_scale, max_scale: range of training scales.
        scenes: train on the features of so many scenes, see `FeatureSamples` and `encode_with`; None trains on
            pictures.
        scene_side: side of their LR pictures.
        sets: names of the test sets to use; None uses all.
        scales: test scales, whole or not.
        protocol, lr, limit, crop: of the test sets, see `EvalSet`.
        val_scales, val_protocol, val_lr, val_limit, val_crop: the same for validation.
        photometric: `kornia.augmentation` modules for training, see `BatchAugment`.
        cache: folder for decoded pictures, see `ImageFolder`; None decodes on every access.
        on_corrupt: "stop" or "skip", see `ImageFolder`.
        workers: processes that load data; 0 loads in the main process.
    """

    def __init__(
        self,
        *,
        train: Source | None = None,
        val: Mapping[str, Source] | None = None,
        test: Mapping[str, Source] | None = None,
        seed: int = 0,
        batch_size: int = 16,
        iterations: int = 1000,
        patch: int = 48,
        queries: int = 2304,
        min_scale: float = 1,
        max_scale: float = 4,
        scenes: int | None = None,
        scene_side: int = 96,
        sets: Sequence[str] | None = None,
        scales: Sequence[float] = (2, 3, 4),
        protocol: Protocol = "benchmark",
        lr: LR = "stored",
        limit: int | None = None,
        crop: int | None = None,
        val_scales: Sequence[float] = (4,),
        val_protocol: Protocol = "raw",
        val_lr: LR = "pil",
        val_limit: int | None = None,
        val_crop: int | None = None,
        photometric: Sequence[nn.Module] = (),
        cache: str | Path | None = None,
        on_corrupt: OnCorrupt = "stop",
        workers: int = 2,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer images than devices is no error
        if seed < 0 or workers < 0:
            raise DataError(f"seed and workers must not be negative, got {seed} and {workers}")
        check_sampling(patch, queries, min_scale, max_scale)
        self.train, self.val, self.test = train, dict(val or {}), dict(test or {})
        self.seed, self.workers = seed, workers
        self.batch_size, self.iterations = batch_size, iterations
        self.sampling: dict[str, Any] = {
            "patch": patch,
            "queries": queries,
            "min_scale": min_scale,
            "max_scale": max_scale,
        }
        if scenes is not None and (photometric or cache is None):
            raise DataError("training on scenes needs a cache and goes without photometric augmentations")
        self.scenes: dict[str, Any] | None = {"scenes": scenes, "side": scene_side} if scenes is not None else None
        self.device: torch.device | str = "cpu"
        self.files: dict[str, Any] = {"cache": cache, "on_corrupt": on_corrupt}
        self.sets, self.scales, self.val_scales = sets, scales, val_scales
        self.test_options: dict[str, Any] = {"protocol": protocol, "lr": lr, "limit": limit, "crop": crop}
        self.val_options: dict[str, Any] = {
            "protocol": val_protocol,
            "lr": val_lr,
            "limit": val_limit,
            "crop": val_crop,
        }
        self.augment = BatchAugment(photometric, seed)
        self.batches_seen = 0
        self.samples: TrainSamples | FeatureSamples | None = None
        self.val_sets: list[EvalSet] = []
        self.test_sets: list[EvalSet] = []

    def prepare_data(self) -> None:
        """Downloads what the stage of the attached trainer (all stages without one) needs and the disk lacks."""
        stage = self.trainer.state.fn if self.trainer is not None else None
        for source in self._sources(stage):
            source.prepare()
        if stage in ("fit", None) and self.scenes is not None:
            self._samples().encode(self.device)  # type: ignore[union-attr]

    def encode_with(self, encoder: nn.Module, margin: int, device: torch.device | str = "cpu") -> None:
        """Says what makes the features of scenes, and where; see `FeatureSamples`."""
        if self.scenes is not None:
            self.scenes |= {"encoder": encoder, "margin": margin}
            self.device = device

    def setup(self, stage: str | None = None) -> None:
        """Finds and checks the files of ``stage`` ("fit", "validate", "test", None for all), by their headers.

        Raises:
            DataError: what is missing or unfit, and how to mend it.
        """
        if stage in ("fit", None) and self.samples is None:
            self.samples = self._samples()
        if stage in ("fit", "validate", None) and not self.val_sets:
            self.val_sets = self._eval_sets(self.val, self.val_scales, self.val_options)
        if stage in ("test", None) and not self.test_sets:
            self.test_sets = self._eval_sets(self._selected(), self.scales, self.test_options)

    def resume(self, batches_seen: int) -> None:
        """Begins the next training with batch ``batches_seen``, as if that many had been seen."""
        self.batches_seen = batches_seen

    def train_dataloader(self) -> TrainLoader:
        if self.samples is None:
            raise DataError("call setup('fit') before train_dataloader()")
        loader = TrainLoader(self.samples, batch_size=self.batch_size, iterations=self.iterations, **self._processes())
        loader.resume(self.batches_seen)
        return loader

    def val_dataloader(self) -> list[DataLoader]:
        return [eval_loader(images, **self._processes()) for images in self.val_sets]

    def test_dataloader(self) -> list[DataLoader]:
        return [eval_loader(images, **self._processes()) for images in self.test_sets]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Training batches go through `BatchAugment` on the device; evaluation batches are ready."""
        if "pixel" not in batch:
            return batch
        return self.augment(batch, self._rank()[0])

    def _samples(self) -> TrainSamples | FeatureSamples:
        if self.train is None:
            raise DataError("this data has no training images; choose data=bundled, div2k or folder to train")
        side = self.sampling["patch"] if self.scenes is None else self.scenes["side"]
        images = ImageFolder(self.train.files(), smallest=crop_size(side, self.sampling["max_scale"]), **self.files)
        if self.scenes is None:
            return TrainSamples(images, self.seed, **self.sampling)
        if "encoder" not in self.scenes:
            raise DataError("training on scenes: say whose features with encode_with(encoder, margin) first")
        return FeatureSamples(images, self.files["cache"], seed=self.seed, **self.scenes, **self.sampling)

    def _sources(self, stage: str | None) -> list[Source]:
        sources = [self.train] if stage in ("fit", None) and self.train is not None else []
        if stage in ("fit", "validate", None):
            sources += self.val.values()
        if stage in ("test", None):
            sources += self._selected().values()
        return sources

    def _selected(self) -> dict[str, Source]:
        if self.sets is None:
            return self.test
        unknown = [name for name in self.sets if name not in self.test]
        if unknown or not self.sets:
            raise DataError(f"sets must be some of {', '.join(self.test)}, got {', '.join(unknown) or 'none'}")
        return {name: self.test[name] for name in self.sets}

    def _eval_sets(
        self, sources: Mapping[str, Source], scales: Sequence[float], options: dict[str, Any]
    ) -> list[EvalSet]:
        """Every source at every scale; what is wrong with any of the sources is said in one message."""
        found: list[EvalSet] = []
        problems: dict[str, str] = {}
        for name, source in sources.items():
            try:
                found += [EvalSet(name, source, scale=scale, **options, **self.files) for scale in scales]
            except DataError as error:
                problems[name] = str(error)
        if problems:
            intact = ",".join(name for name in sources if name not in problems)
            hint = f"; to test on the others only: data.sets=[{intact}]" if intact and sources is not self.val else ""
            raise DataError("; ".join(f"{name}: {problem}" for name, problem in problems.items()) + hint)
        return found

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _processes(self) -> dict[str, Any]:
        rank, world_size = self._rank()
        return {
            "rank": rank,
            "world_size": world_size,
            "workers": self.workers,
            "pin_memory": torch.cuda.is_available(),
        }


def from_folder(
    root: str | Path, val_root: str | Path | None = None, val_fraction: float = 0.1, **options: Any
) -> SRDataModule:
    """`SRDataModule` of a folder of pictures, any sizes, any depth.

    Args:
        root: the pictures.
        val_root: other pictures to validate and test on; None holds back some of ``root``, chosen by their names.
        val_fraction: how many to hold back, between 0 and 1; at least one picture.
        options: of `SRDataModule`.
    """
    train = Folder(root, part="all" if val_root else "train", fraction=val_fraction)
    held = Folder(val_root) if val_root else Folder(root, part="val", fraction=val_fraction)
    return SRDataModule(train=train, val={"folder": held}, test={"folder": held}, **options)
