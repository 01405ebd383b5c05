"""LPIPS and DISTS: torchmetrics' networks on a stand-in for torchvision, which has random weights."""

import subprocess
import sys
from urllib.error import URLError

import pytest

from lmf.errors import MissingExtra, UserError
from lmf.metrics import perceptual

from ..conftest import ROOT

# The features of the two backbones, by their papers, as torchvision numbers them.
STANDIN = """
import torch
from torch import nn

class Weights:
    DEFAULT = None
resnet50 = None  # torchmetrics imports it
AlexNet_Weights = VGG16_Weights = SqueezeNet1_1_Weights = Weights

class Net(nn.Module):
    def __init__(self, layers):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(*layers)

def alexnet(weights=None):
    conv, pool = nn.Conv2d, nn.MaxPool2d
    return Net([conv(3, 64, 11, 4, 2), nn.ReLU(), pool(3, 2), conv(64, 192, 5, padding=2), nn.ReLU(), pool(3, 2),
                conv(192, 384, 3, padding=1), nn.ReLU(), conv(384, 256, 3, padding=1), nn.ReLU(),
                conv(256, 256, 3, padding=1), nn.ReLU(), pool(3, 2)])

def vgg16(weights=None):
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        channels = width or channels
    return Net(layers)
"""
PROGRAM = """
import torch
from lmf.metrics.perceptual import perceptual
metrics = perceptual(["lpips", "dists"])
generator = torch.Generator().manual_seed(0)
hr = torch.rand(1, 3, 64, 72, generator=generator)
noise = torch.randn(1, 3, 64, 72, generator=generator)
for name, metric in metrics.items():
    values = [metric(hr + strength * noise, hr) for strength in (0, 0.05, 0.2)]
    assert abs(values[0]) < 1e-5, (name, values)
    assert values[0] < values[1] < values[2], (name, values)
    assert metric(hr + 0.05 * noise, hr) == values[1], name
print("fine")
"""


def test_torchmetrics_networks_measure_distances(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from . import models, transforms\n__version__ = '0.28.0'\n")
    (package / "models.py").write_text(STANDIN)
    (package / "transforms.py").touch()
    facts = tmp_path / "torchvision-0.28.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


@pytest.fixture
def installed(monkeypatch):
    """Pretend that torchvision is installed, and forget loaded networks."""
    monkeypatch.setitem(sys.modules, "torchvision", object())
    perceptual.network.cache_clear()
    yield
    perceptual.network.cache_clear()


def test_offline_is_one_line(installed, monkeypatch):
    def offline(name):
        raise URLError(OSError(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(perceptual, "build", offline)
    with pytest.raises(
        UserError, match=r"lpips: its weights are not in .*checkpoints and cannot be downloaded .*name res"
    ) as e:
        perceptual.perceptual(["lpips"])
    assert "\n" not in str(e.value)


def test_an_error_of_ours_is_not_taken_for_a_missing_network(installed, monkeypatch):
    def broken(name):
        raise KeyError("a bug")

    monkeypatch.setattr(perceptual, "build", broken)
    with pytest.raises(KeyError):
        perceptual.perceptual(["dists"])


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    perceptual.network.cache_clear()
    with pytest.raises((MissingExtra, UserError), match=r"lmf\[metrics\]"):
        perceptual.perceptual(["lpips"])


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="must be some of lpips, dists, got fid"):
        perceptual.perceptual(["lpips", "fid"])
    assert perceptual.perceptual([]) == {}
