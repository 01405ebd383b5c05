"""Tests of encoding strip by strip."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from lmf import SRModel, decoders, encoders
from lmf.encoders.stages import IMAGE, Stage
from lmf.inference import lines, tiling
from lmf.inference.lines import Lines
from lmf.memory import peak_memory

ENCODERS = {
    "edsr": lambda: encoders.EDSR(8, 3),
    "edsr_scaled": lambda: encoders.EDSR(8, 2, res_scale=0.1),
    "rdn": lambda: encoders.RDN(8, 2, 3, 4),
}


def build(name):
    torch.manual_seed(0)
    return ENCODERS[name]().double().eval()


def image(h, w):
    return torch.rand(2, 3, h, w, dtype=torch.double, generator=torch.Generator().manual_seed(1)) * 2 - 1


def in_strips(encoder, picture, step, axis=0, read=5, overlap=2):
    """Read the features in pieces that overlap."""
    strips, total = Lines(encoder.stages(), picture, step, axis), picture.shape[2 + axis]
    found = []
    for start in range(0, total, read):
        first, stop = max(0, start - overlap), min(total, start + read)
        found.append(strips.read(first, stop).narrow(2 + axis, start - first, stop - start))
    return torch.cat(found, 2 + axis)


@torch.no_grad()
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("step", [1, 2, 5, 16, 37, 100])
@pytest.mark.parametrize("name", ENCODERS)
def test_strips_are_the_whole(name, step, axis):
    encoder = build(name)
    picture = image(37, 11) if axis == 0 else image(11, 37)
    torch.testing.assert_close(in_strips(encoder, picture, step, axis), encoder(picture), atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("changed", range(5))
def test_less_reach_would_show(changed, monkeypatch):
    encoder = build("edsr")
    stages = encoder.stages()
    stages[changed] = replace(stages[changed], reach=stages[changed].reach - 1)
    monkeypatch.setattr(encoder, "stages", lambda: stages)
    assert (in_strips(encoder, image(37, 11), 10) - encoder(image(37, 11))).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["edsr", "rdn"])
def test_reaches_add_up_to_the_receptive_field(name):
    """Along the longest way from the features back to the image."""
    encoder = build(name)
    stages = encoder.stages()
    far = {IMAGE: 0}
    for number, stage in enumerate(stages):
        far[number] = stage.reach + max(far[source] for source in stage.inputs)
    assert far[len(stages) - 1] == encoder.receptive_field


def test_every_line_is_computed_once():
    stages = encoders.EDSR(8, 16).stages()
    done = {number: [] for number in range(len(stages))}
    for strip in lines.schedule(stages, 1000, 147):
        for number, first, last in strip:
            done[number] += range(first, last)
    assert all(found == [*range(1000)] for found in done.values())


def test_waste():
    """Two stages of reach 1, 10 lines in strips of 5: the first computes 5 and 1 + 6 lines, and so on."""
    stages = [Stage(nn.Identity(), 1, (IMAGE,), 3, 3), Stage(nn.Identity(), 1, (0,), 3, 3)]
    # Strip 1: the first stage sees 0..5 and computes 0..4; the second sees 0..4 and computes 0..3.
    # Strip 2: the first stage sees 3..10 and computes 4..10; the second sees 2..10 and computes 3..10.
    assert [*lines.schedule(stages, 10, 5)] == [[(0, 0, 4), (1, 0, 3)], [(0, 4, 10), (1, 3, 10)]]
    assert lines.waste(stages, 10, 5) == pytest.approx((5 + 7 + 4 + 8) / 20 - 1)
    assert lines.waste(stages, 10, 10) == 0


def test_waste_of_a_photograph_of_12_megapixels_is_small():
    assert 0 < lines.waste(encoders.EDSR().stages(), 3000, 768 * 768 // 4000) < 0.03


@torch.no_grad()
def test_memory_does_not_grow_with_the_picture():
    """Results of stages are freed, also those that the last stage needs."""
    encoder, alive, most = build("edsr"), [], []

    def watched(run):
        def call(*inputs):
            result = run(*inputs)
            alive.append(weakref.ref(result.untyped_storage()))
            most.append(sum(ref() is not None for ref in alive))
            return result

        return call

    stages = [replace(stage, run=watched(stage.run)) for stage in encoder.stages()]
    encoder.stages = lambda: stages
    in_strips(encoder, image(400, 5), 20)
    assert len(alive) == 20 * 5
    assert max(most[50:]) == max(most[:50]) <= 6


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("encoder", [encoders.EDSR(64, 4), encoders.RDN(64, 2, 2, 64), encoders.RDN(64, 3, 4, 32)])
def test_the_memory_that_is_stated(encoder):
    """Maps are large enough that freed ones go back to the system."""
    picture, step = torch.rand(1, 3, 300, 1500), 100
    Lines(encoder.stages(), picture[:, :, :60], step).read(0, 10)
    with peak_memory(torch.device("cpu")) as peak:
        strips = Lines(encoder.stages(), picture, step)
        for start in range(0, 300, 20):
            strips.read(start, start + 20)
    if (measured := peak()) is None:
        pytest.skip("needs Linux")
    assert 0.7 < 4 * 1500 * lines.channels_held(encoder.stages(), 300, step) / measured < 1.7


def test_channels_held():
    """Two stages of reach 1 and width 3, 10 lines at once or in strips of 5; most is held at the end."""
    stages = [Stage(nn.Identity(), 1, (IMAGE,), 3, 3), Stage(nn.Identity(), 1, (0,), 3, 3)]
    kept = 1 * 3  # the last line of the first map
    assert lines.channels_held(stages, 10, 10) == kept + 10 * 3 + 10 * 3  # all lines of the input and of the result
    assert lines.channels_held(stages, 10, 5) == kept + 8 * 3 + 8 * 3  # lines 2..9


def test_how_models_encode():
    edsr, rdn, swinir = (SRModel(e(), decoders.LMLIIF()) for e in (encoders.EDSR, encoders.RDN, encoders.SwinIR))
    found = tiling.encoding(edsr, (3000, 4000))
    assert (found.lines, found.waste < 0.03) == (147, True)
    assert 0.7e9 < found.memory < 1e9
    assert tiling.encoding(edsr, (6000, 8000)).lines == 96  # an eighth of 768
    assert tiling.encoding(edsr, (6000, 8000)).waste < 0.05
    assert (tiling.encoding(edsr, (700, 800)).lines, tiling.encoding(edsr, (700, 800)).waste) == (0, 0)
    assert 0.05 < tiling.encoding(rdn, (3000, 4000)).waste < 0.15
    tiles = tiling.encoding(swinir, (1600, 800))  # 2 and 3 tiles of 16 windows
    field = swinir.encoder.receptive_field
    assert tiles.lines == 0
    assert tiles.memory is None
    assert tiles.waste == pytest.approx(
        (1600 + 4 * -(-field // 8) * 8) * (800 + 2 * -(-field // 8) * 8) / 1.28e6 - 1, rel=0.02
    )
