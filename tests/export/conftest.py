"""Exported graphs, each written once per session, and the pictures that they enlarge."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

import lmf
from lmf import decoders, encoders
from lmf.export import parts, save
from lmf.model import SRModel

CARD = {"data": "photographs", "licence": "Apache-2.0"}

ENCODERS = {
    "edsr": lambda: encoders.EDSR(8, 1),
    "rdn": lambda: encoders.RDN(8, 2, 2, 8),
    "swinir": lambda: encoders.SwinIR(8, window=4, embed=8, depths=[2], heads=[2]),
    "identity": encoders.Identity,
}
DECODERS = {
    "lm_liif": lambda c: decoders.LMLIIF(c, width=8, depth=2, hyper=[16], skip="bilinear"),
    "lm_lte": lambda c: decoders.LMLTE(c, hidden_dim=16, width=8, depth=2, hyper=[16], code_channels=8),
    "liif": lambda c: decoders.LIIF(c, [16]),
    "lte": lambda c: decoders.LTE(c, 16, [16]),
    "lte_plus": lambda c: decoders.LTEPlus(c, 16, [16]),
    "metasr": lambda c: decoders.MetaSR(c, [16]),
    "bicubic": decoders.Bicubic,
    "ciaosr": lambda c: decoders.CiaoSR(c, [16], [16], [16]),
    "lm_ciaosr": lambda c: decoders.LMCiaoSR(c, hyper=[16], prenet=[16]),
    "thera": lambda c: decoders.Thera(c, waves=16),
    "thera_plus": lambda c: decoders.Thera(c, "plus", 16),
    "thera_pro": lambda c: decoders.Thera(c, "pro", 16),
    "diif": lambda c: decoders.DIIF(c, [16], [16]),
    "srno": lambda c: decoders.SRNO(c, 16, 4),
    "lm_srno": lambda c: decoders.LMSRNO(c, width=8, depth=2, channels=16, heads=4),
}


def make(name: str) -> SRModel:
    """The pretrained model ``name``, or a small random one, ``decoder-encoder``."""
    if name in lmf.list_models():
        return lmf.load(name)
    decoder, _, encoder = name.partition("-")
    torch.manual_seed(0)
    first = ENCODERS[encoder]()
    return SRModel(first, DECODERS[decoder](first.out_channels)).eval()


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Callable[..., tuple[SRModel, dict[str, Path]]]:
    """Return ``exported(name, split=..., half=..., fmt=...)``, which returns a model and the files of its graphs."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def export(name: str, *, split: bool = False, half: bool = False, fmt: str = "onnx"):
        key = (name, split, half, fmt)
        if key not in done:
            model, path = make(name), folder / f"{len(done)}{'.onnx' if fmt == 'onnx' else '.pt2'}"
            save(model, path, CARD, fmt=fmt, split=split, half=half)
            done[key] = model, parts(path, split)
        return done[key]

    return export


def photographs(*size: int, batch: int = 1) -> Tensor:
    """Parts of a photograph, (B, 3, *size) in [0, 1]."""
    photo = np.moveaxis(data.astronaut()[::2, ::2], -1, 0) / np.float32(255)
    h, w = size
    return torch.from_numpy(np.stack([photo[:, 40 * i : 40 * i + h, 40 : 40 + w] for i in range(batch)]))
