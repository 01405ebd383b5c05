"""The LightningDataModule: training samples, validation sets and test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import nn

from lmf.data.augment import BatchAugment
from lmf.data.evaluation import EvalSet
from lmf.data.folder import ImageFolder
from lmf.data.loader import EvalLoader, Samples, TrainLoader, eval_loader
from lmf.data.sampling import TrainSamples, crop_size
from lmf.data.settings import DataError, EvalSettings, FileSettings, Sampling
from lmf.data.sources import Source, source_files


class SRDataModule(LightningDataModule):
    """Provides training samples, and validation and test sets at several scales.

    A training batch on the device is {"lr": (B, 3, p, p), "coord": (B, Q, 2), "cell": (B, 2), "target": (B, Q, 3),
    "number": int}. An evaluation batch is {"lr": (1, 3, h, w), "hr": (1, 3, H, W), "name": str}, or {} if only other
    ranks have pictures left. Tensors are float32, colours in [0, 1].

    Args:
        train: pictures for training; None if this data is for evaluation only.
        val: validation sets by name.
        test: test sets by name.
        sampling: size and scales of training samples.
        val_settings: scales, protocol, LR pictures and limits of the validation sets.
        test_settings: the same for the test sets.
        files: how picture files are read.
        seed: seed of the training samples, at least 0.
        batch_size: samples per step, over all devices.
        iterations: steps per epoch.
        photometric: `kornia.augmentation` modules for training, see `BatchAugment`.
        workers: processes that load data; 0 loads in the main process.

    Raises:
        DataError: if a setting is out of range.
    """

    def __init__(
        self,
        *,
        train: Source | None = None,
        val: Mapping[str, Source] | None = None,
        test: Mapping[str, Source] | None = None,
        sampling: Sampling | None = None,
        val_settings: EvalSettings | None = None,
        test_settings: EvalSettings | None = None,
        files: FileSettings | None = None,
        seed: int = 0,
        batch_size: int = 16,
        iterations: int = 1000,
        photometric: Sequence[nn.Module] = (),
        workers: int = 2,
    ) -> None:
        super().__init__()
        if seed < 0 or workers < 0:
            raise DataError(f"seed and workers must not be negative, got {seed} and {workers}")
        self.train, self.val, self.test = train, dict(val or {}), dict(test or {})
        self.sampling = sampling or Sampling()
        self.val_settings = val_settings or EvalSettings(scales=(4,), protocol="raw", lr="pil")
        self.test_settings = test_settings or EvalSettings()
        self.files = files or FileSettings()
        self.seed, self.workers = seed, workers
        self.batch_size, self.iterations = batch_size, iterations
        self.augment = BatchAugment(photometric, seed)
        self.batches_seen = 0
        self.samples: Samples | None = None
        self.val_sets: list[EvalSet] = []
        self.test_sets: list[EvalSet] = []

    def prepare_data(self) -> None:
        """Download missing pictures of the attached trainer's stage, or of all stages without a trainer."""
        self.prepare(self.stage)

    def prepare(self, stage: str | None = None) -> None:
        """Download missing pictures of a stage, which may start before a trainer is attached.

        Args:
            stage: ``"fit"``, ``"validate"`` or ``"test"``; None for all.
        """
        for source in self._sources(stage):
            source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Find the files of a stage and check their headers.

        Args:
            stage: ``"fit"``, ``"validate"`` or ``"test"``; None for all.

        Raises:
            DataError: if data is missing or unsuitable. The message says what to do.
        """
        if stage in ("fit", None) and self.samples is None:
            self.samples = self.make_samples()
        if stage in ("fit", "validate", None) and not self.val_sets:
            self.val_sets = self._eval_sets(self.val, self.val_settings, "val_sets")
        if stage in ("test", None) and not self.test_sets:
            self.test_sets = self._eval_sets(self.test, self.test_settings, "sets")

    def make_samples(self) -> Samples:
        """Create the training samples.

        Raises:
            DataError: if there are no training pictures.
        """
        return TrainSamples(self.images(self.sampling.patch), self.seed, self.sampling)

    def resume(self, batches_seen: int) -> None:
        """Start the next training at batch number ``batches_seen``."""
        self.batches_seen = batches_seen

    def train_dataloader(self) -> TrainLoader:
        """Return the loader of training batches, which follows `resume` and the trainer's limits.

        Raises:
            DataError: if `setup` has not been called, or the settings do not fit the trainer.
        """
        if self.samples is None:
            raise DataError("call setup('fit') before train_dataloader()")
        loader = TrainLoader(
            self.samples,
            batch_size=self.batch_size,
            iterations=self.iterations,
            used=self._used("train", self.iterations),
            repeat=self._overfits,
            **self._processes(),
        )
        loader.resume(self.batches_seen)
        return loader

    def val_dataloader(self) -> list[EvalLoader]:
        """Return a loader for each of ``val_sets``."""
        return self._eval_loaders("val", self.val_sets)

    def test_dataloader(self) -> list[EvalLoader]:
        """Return a loader for each of ``test_sets``."""
        return self._eval_loaders("test", self.test_sets)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Apply `BatchAugment` to training batches. Evaluation batches do not change."""
        if "pixel" not in batch:
            return batch
        augmented: dict[str, Any] = self.augment(batch, self._rank()[0])
        return augmented

    def images(self, side: int, decode: bool = False) -> ImageFolder:
        """Return the training pictures that are large enough for LR patches at every scale.

        Args:
            side: side of an LR patch in pixels.
            decode: see `ImageFolder`.

        Raises:
            DataError: if there are no training pictures.
        """
        if self.train is None:
            raise DataError("this data has no training images; choose data=bundled, data=div2k or data=folder")
        return ImageFolder(
            source_files(self.train, self.files),
            self.files.cache,
            crop_size(side, self.sampling.max_scale),
            self.files.on_corrupt,
            decode,
        )

    @property
    def stage(self) -> str | None:
        """Stage of the attached trainer, "fit", "validate" or "test"; None without a trainer."""
        return self.trainer.state.fn if self.trainer is not None else None

    def _sources(self, stage: str | None) -> list[Source]:
        """Return the sources that a stage uses; all if ``stage`` is None."""
        sources = [self.train] if stage in ("fit", None) and self.train is not None else []
        if stage in ("fit", "validate", None):
            sources += self.val_settings.select(self.val).values()
        if stage in ("test", None):
            sources += self.test_settings.select(self.test).values()
        return sources

    def _eval_sets(self, sources: Mapping[str, Source], settings: EvalSettings, option: str) -> list[EvalSet]:
        """Create a set for every selected source and scale. One error lists the problems of all sources."""
        sets: list[EvalSet] = []
        problems: dict[str, str] = {}
        chosen = settings.select(sources)
        for name, source in chosen.items():
            try:
                sets += [
                    EvalSet(
                        name,
                        source,
                        scale=scale,
                        protocol=settings.protocol,
                        lr=settings.lr,
                        limit=settings.limit,
                        crop=settings.crop,
                        cache=self.files.cache,
                        on_corrupt=self.files.on_corrupt,
                    )
                    for scale in settings.scales
                ]
            except DataError as error:
                problems[name] = str(error)
        if problems:
            intact = ",".join(name for name in chosen if name not in problems)
            hint = f"; to use only the others: data.{option}=[{intact}]" if intact else ""
            raise DataError("; ".join(f"{name}: {problem}" for name, problem in problems.items()) + hint)
        return sets

    def _eval_loaders(self, stage: str, sets: Sequence[EvalSet]) -> list[EvalLoader]:
        loaders = [eval_loader(images, **self._processes()) for images in sets]
        for loader in loaders:
            self._used(stage, len(loader))
        return loaders

    def _used(self, stage: str, count: int) -> int:
        """Return how many of ``count`` batches the trainer uses.

        Raises:
            DataError: if its limit is a fraction that leaves none.
        """
        if self.trainer is None:
            return count
        limit = getattr(self.trainer, f"limit_{stage}_batches")
        used = min(limit, count) if isinstance(limit, int) else int(limit * count)
        if limit and count and not used:
            name = "overfit_batches" if self._overfits and stage != "test" else f"limit_{stage}_batches"
            raise DataError(f"trainer.{name}={limit} leaves none of {count} batches; give a whole number")
        return used

    @property
    def _overfits(self) -> bool:
        """Whether the trainer repeats the same few batches in every epoch."""
        return self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]

    def _rank(self) -> tuple[int, int]:
        """Return the global rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _processes(self) -> dict[str, Any]:
        """Return the options of loaders that depend on the processes and the device."""
        rank, world_size = self._rank()
        return {
            "rank": rank,
            "world_size": world_size,
            "workers": self.workers,
            "pin_memory": torch.cuda.is_available(),
        }
