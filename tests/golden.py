"""Measured outputs of the authors' released code on synthetic weights that anyone can regenerate.

``fixtures/golden.safetensors`` is a part that travels with the tests: per model its description, the names and
shapes of its weights, their seed, a small image and some hundred queries with the authors' answers. The whole,
with pictures, training mode and gradients, lies in ``shared/golden`` where there is one.
"""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lmf import checkpoint
from lmf.checkpoint import published
from lmf.model import SRModel

FIXTURE = Path(__file__).parent / "fixtures" / "golden.safetensors"
UNUSED = ("sub_mean", "add_mean", "attn_mask", "relative_position_index", "escape_NaN")


@dataclass(frozen=True)
class Golden:
    spec: dict
    keys: list  # [[name, shape], ...] of the authors' state dict
    seed: int
    tensors: dict[str, Tensor]
    cases: list = field(default_factory=list)  # [[h, w, scale, H, W], ...]

    @property
    def lr(self) -> Tensor:
        """(1, 3, h, w) in network units: the image of the queries."""
        return image(self.tensors[next(k for k in self.tensors if k.startswith("lr"))])

    def model(self) -> SRModel:
        return checkpoint.from_authors(self.spec, weights(self.keys, self.seed), verbose=False)

    def gradients(self) -> dict[str, Tensor]:
        """The authors' gradients under our names: they are converted just as weights are."""
        theirs = {key: self.tensors.get(f"grad_{key}", torch.full(shape, torch.nan)) for key, shape in self.keys}
        _, ours, _ = published.convert(self.spec, theirs)
        return {key: value for key, value in ours.items() if not value.isnan().any()}


def image(uint8: Tensor) -> Tensor:
    return uint8.permute(2, 0, 1)[None].float() / 127.5 - 1


def weights(keys: list, seed: int) -> dict[str, Tensor]:
    """The synthetic weights: drawn from a generator seeded by each key, He-scaled."""
    state = {}
    for key, shape in keys:
        if any(name in key for name in UNUSED):
            state[key] = torch.zeros(shape)
            continue
        a = np.asarray(np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape))
        if "/" in key:
            a = tree_weight(key, a)
        elif key.split(".")[-2:-1] in (["kln"], ["vln"]):  # layer norms, some of which have two or more dimensions
            a = 1 + 0.1 * a if key.endswith("weight") else 0.05 * a
        elif len(shape) >= 2:
            a *= (2 / np.prod(shape[1:])) ** 0.5 * (0.5 if key.startswith("encoder.") else 0.8)
        elif "norm" in key and key.endswith("weight"):
            a = 1 + 0.1 * a
        elif key.endswith("weight") and a.size == 1:
            a = 0.1 * np.abs(a) + 0.2
        else:
            a *= 0.05
        state[key] = torch.from_numpy(a.astype(np.float32)).reshape(shape)
    return state


def tree_weight(key: str, a: np.ndarray) -> np.ndarray:
    """The weight of a model written in JAX, from normal numbers ``a``."""
    last = key.rpartition("/")[2]
    if last == "k":
        return np.full(a.shape, np.log(4) ** 0.5 / (2 * np.pi**2))
    if last == "scale":
        return 1 + 0.1 * a
    if last == "kernel":
        part = next((v for k, v in {"params/encoder/": 0.5, "params/out_conv/": 0.1}.items() if key.startswith(k)), 0.8)
        return a * (2 / np.prod(a.shape[:-1])) ** 0.5 * part
    return a * {"components": 12, "relative_position_bias_table": 0.4, "bias": 0.05}[last]


def load(path: Path) -> Golden:
    """One whole golden file."""
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    parts = (json.loads(meta[key]) for key in ("spec", "keys", "seed"))
    return Golden(*parts, tensors, json.loads(meta["cases"]))


def thera() -> dict[str, Golden]:
    """The part of Thera's tensors that travels with the tests."""
    with safe_open(FIXTURE.with_name("thera.safetensors"), "pt") as file:
        meta = file.metadata()
        encoders, models = json.loads(meta["encoders"]), json.loads(meta["models"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    shared = {key: value for key, value in tensors.items() if "." not in key}
    return {
        name: Golden(
            model["spec"],
            encoders[model["encoder"]] + model["keys"],
            model["seed"],
            shared | {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{name}.")},
        )
        for name, model in models.items()
    }


def frozen() -> dict[str, Golden]:
    """The part that travels with the tests: tensors ``lr``, ``coord``, ``cell``, ``out``."""
    with safe_open(FIXTURE, "pt") as file:
        meta = file.metadata()
        encoders, models = json.loads(meta["encoders"]), json.loads(meta["models"])
        return {
            name: Golden(
                model["spec"],
                encoders[model["encoder"]] + model["keys"],
                model["seed"],
                {key: file.get_tensor(f"{name}.{key}") for key in ("lr", "coord", "cell", "out")},
            )
            for name, model in models.items()
        }
