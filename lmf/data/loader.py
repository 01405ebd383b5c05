"""Loaders whose order depends on nothing but the seed and the batch number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from lmf.data.settings import DataError


class Samples(Protocol):
    """An endless list of training samples, such as `TrainSamples` or `FeatureSamples`."""

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any] | DataError:
        """Samples ``numbers`` as one batch, or the error that prevents it."""


class TrainLoader(DataLoader):
    """Batches start, start + 1, ... of samples, an epoch at a time.

    Global batch n holds samples n * G .. n * G + G - 1; rank r of R gets the r-th of R equal slices. Iterating
    continues where the last iteration stopped, so the order depends neither on epochs, workers and ranks nor on
    restarts.

    Args:
        samples: the samples.
        batch_size: G, over all ranks.
        iterations: batches per epoch.
        used: how many of these the trainer takes before it ends the epoch; None for all.
        repeat: make every epoch repeat the first one.
        rank, world_size: r and R.
        workers: processes that make samples; 0 makes them in this one.
        pin_memory: put batches in page-locked memory, for faster transfers to a GPU.

    Raises:
        DataError: batch size not divisible by the number of ranks, or settings below 1.
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
                f"the batch size counts all devices and must be divisible by their number: {batch_size} is not "
                f"divisible by {world_size}"
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
            generator=torch.Generator(),  # else every epoch would draw from, and so move, the global one
        )

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The rest of the epoch: training batches with their ``number``, ready for `BatchAugment`."""
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise DataError(str(batch))  # raising the local itself would tie workers into a reference cycle
            batch["number"] = self.order.content(self.order.batches)
            self.order.batches += 1
            yield batch

    def resume(self, batches: int) -> None:
        """Continues after ``batches`` batches since the start of training, in the middle of an epoch or not."""
        self.order.batches = self.order.resumed = batches

    def state_dict(self) -> dict[str, int]:
        """Batches handed out so far, not counting those prefetched."""
        return {"batches": self.order.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues where `state_dict` was taken, unless `resume` has been called."""
        if not self.order.resumed:
            self.resume(state["batches"])


class TrainOrder(DistributedSampler, SequentialSampler):
    """Sample numbers of one rank, from batch ``batches`` to the end of the epoch.

    The base classes have no part in the order. Lightning leaves a `DistributedSampler` in place in distributed runs,
    and a `SequentialSampler` with ``overfit_batches``.
    """

    def __init__(self, batch_size: int, length: int, rank: int, world_size: int, repeat: bool = False) -> None:
        self.batch_size, self.length = batch_size, length
        self.local = batch_size // world_size
        self.rank = rank
        self.repeat = repeat
        self.batches = 0
        self.resumed = 0

    def content(self, batch: int) -> int:
        """The number that says what is in batch ``batch`` since the start of training."""
        return batch % self.length if self.repeat else batch

    def __len__(self) -> int:
        return self.length * self.local

    def __iter__(self) -> Iterator[int]:
        first = self.batches
        done = first % self.length if first == self.resumed else 0  # a trainer may end epochs early
        for batch in range(first, first + self.length - done):
            start = self.content(batch) * self.batch_size + self.rank * self.local
            yield from range(start, start + self.local)


class EvalOrder(DistributedSampler, SequentialSampler):
    """Every R-th image from the r-th, and None where other ranks have one image more.

    Every rank so takes part in as many batches as the others: a rank that had none would skip the evaluation and the
    collective operations at its end, and the others would wait for it. For the base classes see `TrainOrder`.
    """

    def __init__(self, count: int, rank: int, world_size: int) -> None:
        rounds = math.ceil(count / world_size)
        self.indices = [n if n < count else None for n in range(rank, rounds * world_size, world_size)]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int | None]:  # type: ignore[override]
        return iter(self.indices)


class Shared(Dataset):
    """Evaluation images, and an empty item at the index None of `EvalOrder`."""

    def __init__(self, images: Dataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int | None) -> dict[str, Any]:
        return {} if index is None else self.images[index]


def eval_loader(
    images: Dataset, *, rank: int = 0, world_size: int = 1, workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """A loader of one image a batch, each image on exactly one rank.

    All ranks get the same number of batches. Where the images do not suffice, the last batch is an empty dictionary.
    """
    return DataLoader(
        Shared(images),
        batch_size=1,
        sampler=EvalOrder(len(images), rank, world_size),  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        collate_fn=_single,
    )


def _whole(batch: Any) -> Any:
    return batch


def _single(items: list[dict[str, Any]]) -> dict[str, Any]:
    (item,) = items
    return {**item, "lr": item["lr"][None], "hr": item["hr"][None]} if item else {}
