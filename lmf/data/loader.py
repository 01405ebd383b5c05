"""Data loaders whose order depends only on the seed and the batch number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from lmf.data.folder import ImageFolder
from lmf.data.settings import DataError

EvalLoader = DataLoader[dict[str, Any]]


class Samples(Protocol):
    """An endless list of training samples, such as `TrainSamples` or `FeatureSamples`.

    Attributes:
        images: the pictures that the samples are cut from.
    """

    images: ImageFolder

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any] | DataError:
        """Return samples ``numbers`` as one batch, or the error that prevents it."""


class Images(Protocol):
    """A list of evaluation images, such as `lmf.data.EvalSet`."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return image ``index`` as a dictionary with ``lr`` and ``hr``."""


class TrainLoader(DataLoader[dict[str, Any]]):
    """Loads consecutive batches of samples, one epoch per iteration.

    Global batch n consists of samples n * G .. n * G + G - 1, and rank r of R gets the r-th of R equal slices. Each
    iteration continues where the last one stopped. The order of samples therefore does not depend on epochs, workers,
    ranks or restarts.

    Args:
        samples: the samples.
        batch_size: G, the samples per batch over all ranks.
        iterations: batches per epoch.
        used: how many of these the trainer uses before it ends the epoch; None for all.
        repeat: whether every epoch repeats the first one.
        rank: r, the rank of this process.
        world_size: R, the number of ranks.
        workers: processes that create samples; 0 creates them in this process.
        pin_memory: whether to use page-locked memory, which speeds up transfers to a GPU.

    Raises:
        DataError: if ``batch_size`` is not divisible by the number of ranks, or a setting is less than 1.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        iterations: int,
        used: int | None = None,
        repeat: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < 1 or iterations < 1:
            raise DataError(f"batch_size and iterations must be at least 1, got {batch_size} and {iterations}")
        if batch_size % world_size:
            raise DataError(
                f"batch_size counts all devices and must be divisible by their number: {batch_size} is not divisible "
                f"by {world_size}"
            )
        self.iterations = iterations
        self.order = TrainOrder(batch_size, iterations if used is None else used, rank, world_size, repeat)
        super().__init__(
            samples,  # type: ignore[arg-type]
            batch_size=batch_size // world_size,
            sampler=self.order,
            num_workers=workers,
            collate_fn=_whole,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # otherwise every epoch would advance the global generator
        )

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the remaining batches of the epoch with their ``number``, ready for `BatchAugment`.

        Raises:
            DataError: if a sample cannot be created.
        """
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise DataError(str(batch))  # raising `batch` itself would create a reference cycle with the workers
            batch["number"] = self.order.content(self.order.batches)
            self.order.batches += 1
            yield batch

    def resume(self, batches: int) -> None:
        """Continue after ``batches`` batches since the start of training, possibly within an epoch."""
        self.order.batches = self.order.resumed = batches

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches yielded so far, without prefetched ones."""
        return {"batches": self.order.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a `state_dict`, unless `resume` has been called."""
        if not self.order.resumed:
            self.resume(state["batches"])


class TrainOrder(DistributedSampler[Any], SequentialSampler):
    """Yields the sample numbers of one rank from batch ``batches`` to the end of the epoch.

    The base classes do not influence the order. Lightning does not replace a `DistributedSampler` in distributed runs,
    nor a `SequentialSampler` with ``overfit_batches``.

    Args:
        batch_size: samples per batch over all ranks.
        length: batches per epoch.
        rank: rank of this process.
        world_size: number of ranks.
        repeat: whether every epoch repeats the first one.
    """

    def __init__(self, batch_size: int, length: int, rank: int, world_size: int, repeat: bool = False) -> None:
        self.batch_size, self.length = batch_size, length
        self.local = batch_size // world_size
        self.rank = rank
        self.repeat = repeat
        self.batches = 0
        self.resumed = 0

    def content(self, batch: int) -> int:
        """Return the number that determines the samples of batch ``batch``, counted from the start of training."""
        return batch % self.length if self.repeat else batch

    def __len__(self) -> int:
        return self.length * self.local

    def __iter__(self) -> Iterator[int]:
        first = self.batches
        done = first % self.length if first == self.resumed else 0  # otherwise the trainer has ended the last epoch
        for batch in range(first, first + self.length - done):
            start = self.content(batch) * self.batch_size + self.rank * self.local
            yield from range(start, start + self.local)


class EvalOrder(DistributedSampler[Any], SequentialSampler):
    """Yields every R-th image number starting at r, and a final None if other ranks have one more image.

    All ranks thus have the same number of batches. A rank without batches would skip the evaluation and its collective
    operations, and the others would wait for it. For the base classes see `TrainOrder`.

    Args:
        count: number of images.
        rank: r, the rank of this process.
        world_size: R, the number of ranks.
    """

    def __init__(self, count: int, rank: int, world_size: int) -> None:
        rounds = math.ceil(count / world_size)
        self.indices = [n if n < count else None for n in range(rank, rounds * world_size, world_size)]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int | None]:  # type: ignore[override]
        return iter(self.indices)


class Shared(Dataset[dict[str, Any]]):
    """Evaluation images, with an empty item for the index None of `EvalOrder`."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | None) -> dict[str, Any]:
        return {} if index is None else self.images[index]


def eval_loader(
    images: Images, *, rank: int = 0, world_size: int = 1, workers: int = 0, pin_memory: bool = False
) -> EvalLoader:
    """Create a loader of one image per batch that gives each image to exactly one rank.

    All ranks get the same number of batches. If a rank has one image less than others, its last batch is an empty
    dictionary.

    Args:
        images: the images.
        rank: rank of this process.
        world_size: number of ranks.
        workers: processes that load images; 0 loads in this process.
        pin_memory: whether to use page-locked memory.
    """
    return DataLoader(
        Shared(images),
        batch_size=1,
        sampler=EvalOrder(len(images), rank, world_size),
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        collate_fn=_single,
    )


def _whole(batch: Any) -> Any:
    """Return a batch that is already collated."""
    return batch


def _single(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate a batch of one image."""
    (item,) = items
    return {**item, "lr": item["lr"][None], "hr": item["hr"][None]} if item else {}
