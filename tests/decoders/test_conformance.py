"""Our decoders pass the conformance tests, and every kind of faulty decoder fails them."""

import importlib.util

import pytest
import torch
from torch import nn

from lmf.decoders import LIIF
from lmf.decoders.conformance import check_decoder
from lmf.decoders.liif import UnfoldedLatent
from tests.conftest import ROOT
from tests.test_model import TINY


def third_party():
    spec = importlib.util.spec_from_file_location("my_decoder", ROOT / "notebooks" / "my_decoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MINE = third_party()


@pytest.mark.parametrize("name", TINY)
def test_ours(name):
    check_decoder(lambda channels: TINY[name]())


@pytest.mark.parametrize("cls", [MINE.BumpDecoder, MINE.LMBumpDecoder])
def test_the_one_of_the_guide(cls):
    state = torch.get_rng_state()
    check_decoder(cls)
    assert torch.equal(torch.get_rng_state(), state)


class Tiny(LIIF):
    def __init__(self, channels):
        super().__init__(channels, [16])


class OtherWidth(Tiny):
    def __init__(self, channels):
        super().__init__(4)


class Turned(Tiny):
    def decode(self, latent, coord, cell):
        return super().decode(latent, coord, cell).mT


class WrongSize(Tiny):
    def latent(self, feat, image, cell):
        latent = super().latent(feat, image, cell)
        return UnfoldedLatent(latent.size[::-1], image, latent.feat)


class Infinite(Tiny):
    def decode(self, latent, coord, cell):
        return super().decode(latent, coord, cell) / (latent.size[0] - 1)


class Half(Tiny):
    def decode(self, latent, coord, cell):
        return super().decode(latent, coord, cell).bfloat16()


class OwnPicture(Tiny):
    def render(self, latent, target, cell):
        return super().render(latent, target, cell) + 0.01


class Crowded(Tiny):
    def decode(self, latent, coord, cell):
        return super().decode(latent, coord, cell) + 0.1 * coord.mean()


class Mingled(Tiny):
    def latent(self, feat, image, cell):
        return super().latent(feat - feat.mean(dim=0), image, cell)


class Remembering(Tiny):
    def latent(self, feat, image, cell):
        self.first = feat.mean()
        return super().latent(feat, image, cell)

    def decode(self, latent, coord, cell):
        return super().decode(latent, coord, cell) + self.first


class Overwriting(Tiny):
    def latent(self, feat, image, cell):
        return super().latent(feat.mul_(1.5), image, cell)


class Farther(Tiny):
    receptive_field = 1


class Placed(Tiny):
    def decode(self, latent, coord, cell):
        return super().decode(latent, coord, cell) + coord[..., :1]


class Reaching(Tiny):
    pointwise = False


class Resummarised(Tiny):
    receptive_field = None
    pointwise = False

    def summarise(self, latent, target, cell):
        return UnfoldedLatent(latent.size, latent.image, 1.5 * latent.feat)


class Single(Tiny):
    def decode(self, latent, coord, cell):
        return super().decode(latent, coord, cell).float()


class Unused(Tiny):
    def __init__(self, channels):
        super().__init__(channels)
        self.spare = nn.Linear(3, 3)


class Detached(Tiny):
    def latent(self, feat, image, cell):
        return super().latent(feat.detach(), image, cell)


class Unsaved(Tiny):
    def __init__(self, channels):
        super().__init__(channels)
        self.offset = torch.rand(1).item()

    def decode(self, latent, coord, cell):
        return super().decode(latent, coord, cell) + self.offset


FAULTS = {
    OtherWidth: "in_channels must be 8",
    Turned: r"query\(\) must return \(2, 11, 3\), got \(2, 3, 11\)",
    WrongSize: r"the latent's size must be \(5, 7\), got \(7, 5\)",
    Infinite: r"\(1, 1\) to \(5, 3\): query\(\) must return finite colours",
    Half: r"must return float32 for float32 inputs, got torch.bfloat16",
    OwnPicture: r"render\(\) must equal query\(\) at the pixels; they differ by 0.01",
    Crowded: "must not depend on the other coordinates",
    Mingled: "as it is alone",
    Remembering: "whatever ran in between",
    Overwriting: "inputs must not be changed",
    Farther: "receptive_field is 1, but",
    Placed: "in strips must equal",
    Reaching: "not pointwise must have receptive_field None, got 2",
    Resummarised: r"summarise\(\) must not change the picture",
    Single: "must render in float64, got torch.float32",
    Unused: "spare.weight gets no gradient",
    Detached: "feat gets no gradient",
    Unsaved: "loads the state_dict",
}


@pytest.mark.parametrize("cls", FAULTS, ids=lambda cls: cls.__name__)
def test_faults_are_named(cls):
    with pytest.raises(AssertionError, match=FAULTS[cls]):
        check_decoder(cls)
