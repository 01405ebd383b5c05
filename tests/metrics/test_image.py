import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lmf.metrics import PSNR, SSIM, ColourShare, RawMax, psnr, ssim


def picture(i: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(i)
    hr = torch.rand(1, 3, 30 + i, 32, generator=random)
    return (hr + 0.02 * (i + 1) * torch.randn(hr.shape, generator=random)).clamp(0, 1), hr


@pytest.mark.parametrize(("metric", "function"), [(PSNR, psnr), (SSIM, ssim)])
def test_mean_over_pictures_not_over_pixels(metric, function):
    mean = metric("benchmark", 3)
    for i in range(3):
        mean.update(*picture(i))
    expected = sum(function(*picture(i), space="y", shave=3).item() for i in range(3)) / 3
    assert mean.compute().item() == pytest.approx(expected, abs=1e-12)
    mean.reset()
    mean.update(*picture(4))
    assert mean.compute().item() == pytest.approx(function(*picture(4), space="y", shave=3).item(), abs=1e-12)


def test_no_pictures_is_nan_without_a_warning_and_an_infinite_one_is_infinite():
    mean = PSNR()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(mean.compute().item())
    sr, hr = picture(0)
    mean.update(sr, hr)
    mean.update(hr, hr)
    assert mean.compute().item() == math.inf


def test_sums_stay_double_when_the_module_around_changes_dtype():
    for change in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.to("cpu", torch.float16)):
        mean = PSNR()
        change(torch.nn.ModuleList([mean]))
        mean.update(*picture(0))
        assert mean.compute().item() == psnr(*picture(0)).item()
        mean.reset()
        assert mean.total.dtype == torch.float64


def fault(i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a grey reference and an enlargement with i coloured pixels and an output of 2 + i in network units."""
    hr = torch.full((1, 3, 10, 10), 0.5)
    sr = hr.clone()
    sr.view(3, 100)[0, :i] = 0.5 + 33 / 255
    sr.view(3, 100)[:, 99] = 0.5 + (2 + i) / 2
    return sr, hr


def test_faults_of_a_set():
    share, largest = ColourShare(), RawMax()
    coloured = torch.rand(1, 3, 10, 10)
    for sr, hr in (fault(2), (coloured, coloured), fault(7), fault(0)):
        share.update(sr, hr)
        largest.update(sr, hr)
    assert share.compute().item() == pytest.approx(0.03, abs=1e-12)  # of three grey pictures
    assert largest.compute().item() == 9
    share.reset()
    largest.reset()
    assert math.isnan(share.compute())
    assert largest.compute() == 0
    largest.update(torch.tensor([[[[math.nan, 5.0]]]]), coloured)
    largest.update(*fault(0))
    assert math.isnan(largest.compute())


def test_faults_stay_double_when_the_module_around_changes_dtype():
    largest = RawMax()
    torch.nn.ModuleList([largest]).to(torch.bfloat16)
    largest.update(torch.full((1, 3, 2, 2), 1.2345678), torch.zeros(1, 3, 2, 2))
    assert largest.compute().item() == pytest.approx(1.4691356, abs=1e-6)
    assert largest.compute().dtype == torch.float64


def evaluate(rank: int, store: str, shares: list[list[int]], results: str) -> None:
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(shares))
    metrics = PSNR("div2k", 2), SSIM("div2k", 2)
    for i in shares[rank]:
        for metric in metrics:
            metric.update(*picture(i))
    faults = ColourShare(), RawMax()
    for i in shares[rank]:
        for metric in faults:
            metric.update(*fault(i))
    torch.save([metric.compute() for metric in (*metrics, *faults)], f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.parametrize("shares", [[[0, 2, 4], [1, 3]], [[], [0, 1, 2, 3, 4]]])
def test_exact_over_processes_with_any_number_of_pictures_each(shares, tmp_path: Path):
    mp.spawn(evaluate, (str(tmp_path / "store"), shares, str(tmp_path)), nprocs=2)
    expected = [sum(f(*picture(i), shave=8).item() for i in range(5)) / 5 for f in (psnr, ssim)]
    expected += [0.02, 6.0]  # the mean and the maximum over all processes
    for rank in range(2):
        values = torch.load(tmp_path / f"{rank}.pt")
        assert [v.item() for v in values] == pytest.approx(expected, abs=1e-12)
