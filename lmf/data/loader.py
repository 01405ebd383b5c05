"""Loaders whose order depends on nothing but the seed and the batch number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lmf.data.folder import DataError


class Samples(Protocol):
    """What training batches are made of: an endless list such as `TrainSamples` or `FeatureSamples`."""

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any] | DataError:
        """Samples ``numbers`` as one batch, or what is wrong with them."""


class TrainLoader(DataLoader):
    """Batches start, start + 1, ... of samples, an epoch at a time.

    Global batch n holds samples n * G .. n * G + G - 1; rank r of R gets the r-th of R equal slices. Iterating goes
    on where the last iteration was left, so the order does not depend on epochs, workers, ranks or restarts.

    Args:
        samples: the samples.
        batch_size: G, over all ranks.
        iterations: batches per epoch.
        rank, world_size: r and R.
        workers: processes that make samples; 0 makes them in this one.
        pin_memory: whether batches lie in page-locked memory, for faster transfers to a GPU.

    Raises:
        DataError: batch size not divisible by the number of ranks, or settings below 1.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        iterations: int,
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
        self.order = TrainOrder(batch_size, iterations, rank, world_size)
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
        return self.order.iterations

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The rest of the epoch: training batches with their ``number``, still to go through `BatchAugment`."""
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise DataError(str(batch))  # raising the local itself would tie workers into a reference cycle
            batch["number"] = self.order.batches
            self.order.batches += 1
            yield batch

    def resume(self, batches: int) -> None:
        """Goes on after ``batches`` batches since the start of training, in the middle of an epoch or not."""
        self.order.batches = self.order.resumed = batches

    def state_dict(self) -> dict[str, int]:
        """Batches handed out so far, not counting those prefetched."""
        return {"batches": self.order.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where `state_dict` was taken, unless `resume` has said where."""
        if not self.order.resumed:
            self.resume(state["batches"])


class TrainOrder(DistributedSampler):
    """Sample numbers of one rank, from batch ``batches`` to the end of the epoch.

    A `DistributedSampler` by name, so that Lightning does not put its own in place.
    """

    def __init__(self, batch_size: int, iterations: int, rank: int, world_size: int) -> None:
        self.batch_size, self.iterations = batch_size, iterations
        self.local = batch_size // world_size
        self.rank = rank
        self.batches = 0
        self.resumed = 0

    def __len__(self) -> int:
        return self.iterations * self.local

    def __iter__(self) -> Iterator[int]:
        first = self.batches
        done = first % self.iterations if first == self.resumed else 0  # a trainer may end epochs early
        for batch in range(first, first + self.iterations - done):
            start = batch * self.batch_size + self.rank * self.local
            yield from range(start, start + self.local)


class EvalOrder(DistributedSampler):
    """Every R-th image from the r-th: nothing twice, so ranks may get unequal numbers."""

    def __init__(self, count: int, rank: int, world_size: int) -> None:
        self.indices = range(rank, count, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def eval_loader(
    images: Dataset, *, rank: int = 0, world_size: int = 1, workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """One image a batch, each image on exactly one rank."""
    order = EvalOrder(len(images), rank, world_size)  # type: ignore[arg-type]
    return DataLoader(
        images,
        batch_size=1,
        sampler=order,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        collate_fn=_single,
    )


def _whole(batch: Any) -> Any:
    return batch


def _single(items: list[dict[str, Any]]) -> dict[str, Any]:
    (item,) = items
    return {**item, "lr": item["lr"][None], "hr": item["hr"][None]}
