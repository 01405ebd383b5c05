import pytest
import torch

from lmf.data import DataError, ImageFolder, Sampling, TrainLoader, TrainSamples
from lmf.data.loader import EvalOrder, TrainOrder, eval_loader


def loader(images: ImageFolder, **options: int) -> TrainLoader:
    samples = TrainSamples(images, 0, Sampling(patch=4, queries=5, min_scale=1, max_scale=2))
    return TrainLoader(samples, **({"batch_size": 4, "iterations": 5} | options))  # type: ignore[arg-type]


def same(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(
        x["number"] == y["number"] and all(torch.equal(x[k], y[k]) for k in x if k != "number")
        for x, y in zip(a, b, strict=True)
    )


def test_epochs_follow_each_other(images: ImageFolder) -> None:
    train = loader(images)
    assert len(train) == 5
    assert [batch["number"] for batch in train] == [0, 1, 2, 3, 4]
    assert [batch["number"] for batch in train] == [5, 6, 7, 8, 9]


def test_a_resumed_epoch_goes_on_to_its_end(images: ImageFolder) -> None:
    straight = loader(images)
    everything = [*straight, *straight]
    resumed = loader(images)
    resumed.resume(3)
    iter(resumed)  # a trainer may start an iteration without using it
    assert same([*resumed, *resumed], everything[3:])


def test_an_epoch_cut_short_does_not_shorten_the_next(images: ImageFolder) -> None:
    train = loader(images)
    for batch in train:
        if batch["number"] == 1:
            break
    assert [batch["number"] for batch in train] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(images: ImageFolder, workers: int) -> None:
    alone, shared_out = loader(images), loader(images, workers=workers)
    shared_out.resume(2)
    state = torch.random.get_rng_state()
    made = [*shared_out, *shared_out]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(made, [*alone, *alone][2:])


def test_state_counts_batches_handed_out_not_prefetched(images: ImageFolder) -> None:
    train = loader(images, workers=2)
    iterator = iter(train)
    next(iterator), next(iterator)
    assert train.state_dict() == {"batches": 2}
    del iterator
    other = loader(images)
    other.load_state_dict({"batches": 2})
    assert next(iter(other))["number"] == 2
    other = loader(images)
    other.resume(3)
    other.load_state_dict({"batches": 2})
    assert next(iter(other))["number"] == 3


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_each_batch(images: ImageFolder, world_size: int) -> None:
    ranks = [list(loader(images, rank=rank, world_size=world_size)) for rank in range(world_size)]
    joined = [
        {k: v if k == "number" else torch.cat([part[k] for part in parts]) for k, v in parts[0].items()}
        for parts in zip(*ranks, strict=True)
    ]
    assert same(joined, list(loader(images)))


def test_indivisible_batches_are_refused(images: ImageFolder) -> None:
    with pytest.raises(DataError, match="4 is not divisible by 3"):
        loader(images, world_size=3)
    with pytest.raises(DataError, match="at least 1"):
        loader(images, iterations=0)


def test_a_damaged_image_is_reported_in_one_line(images: ImageFolder) -> None:
    path, message = images.paths[2], ""
    data = path.read_bytes()
    try:
        path.write_bytes(data[:100])
        list(loader(ImageFolder(images.paths), workers=1))
    except DataError as error:
        message = str(error)
    finally:
        path.write_bytes(data)
    assert message.startswith(f"cannot read image {path}: ")
    assert "\n" not in message


@pytest.mark.parametrize(("count", "world_size"), [(5, 2), (6, 3), (2, 3), (1, 4)])
def test_evaluation_sees_each_image_once(count: int, world_size: int) -> None:
    orders = [EvalOrder(count, rank, world_size) for rank in range(world_size)]
    assert sorted(index for order in orders for index in order if index is not None) == list(range(count))
    assert {len(order) for order in orders} == {len(list(order)) for order in orders} == {-(-count // world_size)}
    assert None not in list(orders[0])


def test_orders_are_left_alone_by_trainers() -> None:
    for order in (TrainOrder(4, 5, 0, 1), EvalOrder(3, 0, 1)):
        before = list(order)
        assert isinstance(order, torch.utils.data.DistributedSampler)
        assert isinstance(order, torch.utils.data.SequentialSampler)  # not replaced with overfit_batches
        order.set_epoch(7)
        assert list(order) == before


def test_an_epoch_of_which_a_trainer_takes_a_part_is_resumed_within(images: ImageFolder) -> None:
    resumed = loader(images, used=3)
    resumed.resume(4)  # the second batch of the second epoch of three
    assert len(resumed) == 5  # the length from which the trainer computes fractions
    assert [[batch["number"] for batch in resumed] for _ in range(2)] == [[4, 5], [6, 7, 8]]


def test_epochs_can_repeat(images: ImageFolder) -> None:
    train = loader(images, used=2, repeat=True)
    first, second = list(train), list(train)
    assert [batch["number"] for batch in first] == [0, 1]
    assert same(first, second)
    assert train.state_dict() == {"batches": 4}
    train.resume(3)
    assert same(list(train), first[1:])


def test_evaluation_batches_hold_one_image() -> None:
    item = {"lr": torch.rand(3, 2, 2), "hr": torch.rand(3, 4, 4), "name": "a"}
    (batch,) = eval_loader([item])  # type: ignore[arg-type]
    assert torch.equal(batch["hr"], item["hr"][None])
    assert list(eval_loader([item], rank=1, world_size=2)) == [{}]  # type: ignore[arg-type]
    assert batch["name"] == "a"
