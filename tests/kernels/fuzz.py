"""Random calls of the kernels from seeds: valid calls are compared with plain PyTorch, invalid ones must fail."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmf import kernels
from lmf.grid import Grid
from lmf.kernels import Weights, reference
from lmf.kernels.enlarge import enlarge
from lmf.kernels.region import Layer, Region

ODD = (math.nan, math.inf, -math.inf, -1.0, 1.0, 0.0, 3.0, -40.0)  # coordinates that no picture has, and borders


class Draw:
    """Generates random tensors and numbers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def __call__(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def of(self, *choices):
        return self.random.choice(choices)

    def normal(self, *shape: int, dtype: torch.dtype, gain: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self.torch, dtype=torch.float64).mul(gain).to(dtype)

    def axis(self, n: int, dtype: torch.dtype) -> Tensor:
        """Return coordinates in any order, including extreme values."""
        at = torch.rand(n, generator=self.torch, dtype=torch.float64) * 2.4 - 1.2
        at = at if self.of(True, False) else at.sort()[0]
        for _ in range(self(0, 2)):
            if n:
                at[self(0, n - 1)] = self.of(*ODD)
        return at.to(dtype)

    def region(self, size: tuple[int, int], whole: bool = False) -> Region:
        """Return random blocks of rows with random runs, or all pixels."""
        h, w = size
        ends = [0, h] if whole else [self(0, h), self(0, h)]
        rows = sorted(ends + [self(*sorted(ends)) for _ in range(self(0, 4))])
        first, runs = [0], []
        for _ in rows[1:]:
            edges = [0, w] if whole else sorted(self(0, w) for _ in range(2 * self(0, 3)))
            runs += [edges[i : i + 2] for i in range(0, len(edges), 2)]
            first.append(len(runs))
        return Region(size, torch.tensor(rows), torch.tensor(first), torch.tensor(runs, dtype=torch.int64).view(-1, 2))

    def grid(self, most: int = 24) -> Grid:
        """Return a picture, or a rectangle of one."""
        cells = self(1, most), self(1, most)
        spans = [(0, n) if self.of(True, False) else tuple(sorted((self(0, n), self(0, n)))) for n in cells]
        spans = [(a, b) if b > a else (max(a - 1, 0), max(a, 1)) for a, b in spans]
        return Grid(cells, *spans)


@dataclass
class Case:
    """Arguments that all kinds of rendering share."""

    modulation: Tensor
    code: Tensor
    extra: Tensor
    weights: Weights
    encoding: str

    @property
    def dtype(self) -> torch.dtype:
        return self.modulation.dtype

    @property
    def batch(self) -> int:
        return len(self.modulation)

    @classmethod
    def draw(cls, draw: Draw, batch: int | None = None, dtype: torch.dtype | None = None) -> Case:
        dtype, batch = dtype or draw.of(torch.float32, torch.float64), draw(1, 3) if batch is None else batch
        encoding, width, depth = draw.of("linear", "fourier"), draw.of(16, 16, 32, 8), draw(1, 4)
        size = draw.of((1, 1), (1, draw(1, 9)), (draw(1, 9), draw(1, 9)), (draw(10, 40), draw(1, 5)))
        if encoding == "linear":
            code, extra = draw(0, 20), draw(0, 3)
            in_dim = code + 2 + extra
        else:
            in_dim = draw.of(16, 32, 64, 12)
            code, extra = 2 * in_dim, in_dim // 2
        weights = Weights(
            first=draw.normal(width, in_dim, dtype=dtype, gain=in_dim**-0.5),
            hidden=draw.normal(depth - 1, width, width, dtype=dtype, gain=width**-0.5),
            out=draw.normal(3, width, dtype=dtype, gain=width**-0.5),
            bias=draw.normal(depth, width, dtype=dtype, gain=0.3),
            out_bias=draw.normal(3, dtype=dtype),
        )
        numbers = 2 * depth * width
        modulation = cls.laid(draw, batch, *size, numbers, dtype=dtype)
        codes = cls.laid(draw, batch, *size, code, dtype=dtype)
        return cls(modulation, codes, draw.normal(batch, extra, dtype=dtype), weights, encoding)

    @staticmethod
    def laid(draw: Draw, b: int, h: int, w: int, c: int, dtype: torch.dtype) -> Tensor:
        """Return a map in one of the memory layouts that networks return."""
        layout = draw.of("plain", "slice", "planes", "expanded")
        if layout == "slice":
            return draw.normal(b, h, w, c + 5, dtype=dtype, gain=0.5)[..., 2 : 2 + c]
        if layout == "planes":
            return draw.normal(b, c, h, w, dtype=dtype, gain=0.5).permute(0, 2, 3, 1)
        if layout == "expanded":
            return draw.normal(1, h, w, c, dtype=dtype, gain=0.5).expand(b, -1, -1, -1)
        return draw.normal(b, h, w, c, dtype=dtype, gain=0.5)

    def image(self, draw: Draw) -> Tensor | None:
        if draw.of(True, False):
            return None
        return draw.normal(self.batch, 3, draw(1, 9), draw(1, 9), dtype=self.dtype)


def same(found: Tensor, expected: Tensor, *coord: Tensor, latents: int = 1) -> None:
    """Assert equality, including NaN, with a tolerance that grows with the coordinates."""
    far = max([1.0, *(float(t[t.isfinite()].abs().max()) for t in coord if t.isfinite().any())])
    tolerance = (2e-5 if found.dtype == torch.float32 else 1e-9) * far**2 * (latents if far > 1.5 else 1)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-4, equal_nan=True)


def points(draw: Draw, case: Case) -> Tensor:
    shape = case.batch, draw.of(0, 1, draw(2, 40), draw(600, 1500))
    return torch.stack([draw.axis(math.prod(shape), case.dtype).view(shape) for _ in range(2)], dim=-1)


def scattered(draw: Draw) -> None:
    case = Case.draw(draw)
    coord = points(draw, case)
    args = case.modulation, case.code, case.extra, coord, case.weights, case.encoding
    same(kernels.render(*args), reference.render(*args), coord, latents=max(case.modulation.shape[1:3]))


def gradients(draw: Draw) -> None:
    case = Case.draw(draw)
    coord = points(draw, case).nan_to_num(0.5, 0.5, 0.5)
    grad = draw.normal(*coord.shape[:2], 3, dtype=case.dtype)
    args = case.modulation, case.code, case.extra, coord
    found = torch.ops.lmf.render_backward(grad, *args, *case.weights, case.encoding)
    expected = reference.backward(grad, *args, case.weights, case.encoding)
    for a, b in zip(found, expected, strict=True):
        scale = float(b.abs().max()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, atol=(2e-5 if case.dtype == torch.float32 else 1e-9) * scale, rtol=1e-3)


def axes(draw: Draw) -> None:
    case = Case.draw(draw)
    y, x = (draw.axis(draw.of(0, 1, draw(2, 40)), case.dtype) for _ in range(2))
    latents, image = (case.modulation, case.code, case.extra), case.image(draw)
    found = torch.ops.lmf.render_grid(*latents, y, x, image, *case.weights, case.encoding)
    expected = reference.render_grid(*latents, y, x, image, case.weights, case.encoding)
    same(found, expected, y, x, latents=max(case.modulation.shape[1:3]))


def grids(draw: Draw) -> None:
    case, target = Case.draw(draw), draw.grid(60)
    args = case.modulation, case.code, case.extra, target, case.image(draw), case.weights, case.encoding
    with kernels.backend("reference"):
        expected = kernels.render_grid(*args)
    same(kernels.render_grid(*args), expected)


def enlarged(draw: Draw) -> None:
    source, target = draw.grid(), draw.grid(60)
    image, before = (draw.normal(3, *at.size, dtype=torch.float32) for at in (source, target))
    part = draw.of(None, draw.region(target.size))
    with kernels.backend("reference"):
        expected = enlarge(image, source, target, before.clone(), part)
    same(enlarge(image, source, target, before.clone(), part), expected)


@torch.no_grad()
def painting(draw: Draw) -> tuple:
    """Return the arguments of a valid call of `kernels.render_layers`."""
    case, target = Case.draw(draw, batch=1), draw.grid(60)
    while not kernels.layered(torch.empty(0, dtype=case.dtype), case.modulation, case.weights, case.encoding):
        case = Case.draw(draw, batch=1)
    layers = []
    for _ in range(draw(1, 3)):
        if draw.of(True, False):
            layers.append(Layer(target, torch.zeros(1, 2), draw.region(target.size)))
        else:
            at = draw.grid()
            layers.append(Layer(at, torch.zeros(1, 2), draw.region(at.size, whole=True), draw.region(target.size)))
    out = draw.normal(3, *target.size, dtype=case.dtype)
    extra = draw.normal(len(layers), case.extra.shape[1], dtype=case.dtype)
    return out, target, layers, case.modulation, case.code, extra, case.image(draw), case.weights, case.encoding


def painted(draw: Draw) -> None:
    out, target, layers, modulation, code, extra, image, weights, encoding = args = painting(draw)
    expected = out.clone()
    for layer, own in zip(layers, extra, strict=True):
        y, x = (t.to(out.dtype) for t in layer.grid.axes())
        picture = reference.render_grid(modulation, code, own[None], y, x, image, weights, encoding)[0]
        if layer.shown is None:
            expected = torch.where(layer.part.mask, picture, expected)
        else:
            with kernels.backend("reference"):
                expected = torch.where(layer.shown.mask, enlarge(picture, layer.grid, target), expected)
    kernels.render_layers(*args)
    same(out, expected)


def changed(draw: Draw, tensor: Tensor, free: tuple[int, ...] = ()) -> Tensor:
    """Return ``tensor`` with another rank, another dtype or another size of a dimension not in ``free``."""
    fixed = [dim for dim in range(tensor.ndim) if dim not in free]
    kind = draw.of("rank", "type", *["size"] * 3 * bool(fixed))
    if kind == "rank":
        return tensor[None]
    if kind == "type":
        return tensor.to(draw.of(*{torch.float16, torch.float32, torch.float64, torch.int64} - {tensor.dtype}))
    size, dim = list(tensor.shape), draw.of(*fixed)
    size[dim] = draw.of(*{size[dim] + 1, max(0, size[dim] - 1), 2 * size[dim] + 3} - {size[dim]})
    return tensor.new_zeros(size)


def misfits(draw: Draw) -> None:
    """Call the operators with one tensor that does not fit."""
    case = Case.draw(draw)
    names = ["modulation", "code", "extra", "first", "hidden", "out", "bias", "out_bias"]
    args = dict(zip(names, (case.modulation, case.code, case.extra, *case.weights), strict=True))
    coord, free = points(draw, case), {"coord": (1,), "y": (0,), "x": (0,), "image": (2, 3)}
    kind = draw.of("render", "render_backward", "render_grid")
    if kind == "render_grid":
        image = draw.normal(case.batch, 3, 4, 5, dtype=case.dtype)
        args |= {"y": draw.axis(5, case.dtype), "x": draw.axis(6, case.dtype), "image": image}
    else:
        args |= {"coord": coord}
    if kind == "render_backward":
        args |= {"grad": draw.normal(*coord.shape[:2], 3, dtype=case.dtype)}
    name, encoding = draw.of(*args, "encoding"), case.encoding
    if name == "encoding":
        encoding = draw.of("Linear", "", "none")
    else:
        args[name] = changed(draw, args[name], free.get(name, ()))
    with pytest.raises(ValueError, match=" "):
        getattr(torch.ops.lmf, kind)(**args, encoding=encoding)


def elsewhere(draw: Draw, part: Region) -> Region:
    """Return ``part`` with one index outside its grid, or one tensor that does not fit."""
    h, w = part.size
    kind = draw.of("size", "rows", "first", "type", "less", *["runs"] * bool(len(part.runs)))
    if kind == "size":
        return replace(part, size=(h + 1, w))
    if kind == "type":
        name = draw.of("rows", "first", "runs")
        return replace(part, **{name: getattr(part, name).to(draw.of(torch.int32, torch.float64))})
    if kind == "less":
        return replace(part, rows=part.rows[1:]) if draw.of(True, False) else replace(part, first=part.first[1:])
    tensor = getattr(part, kind).clone()
    most = {"rows": h, "first": len(part.runs), "runs": w}[kind]
    at = tuple(draw(0, n - 1) for n in tensor.shape)
    if kind == "runs":  # one that a block has
        at = draw(0, len(tensor) - 1), at[1]
    tensor[at] = draw.of(-1, most + 1, 1 << 40, -(1 << 40))
    return replace(part, **{kind: tensor})


def wrong_layers(draw: Draw) -> None:
    """Call `kernels.render_layers` with a layer or a picture that does not fit."""
    out, target, layers, modulation, code, extra, image, weights, encoding = painting(draw)
    which = draw(0, len(layers) - 1)
    layer, kind = layers[which], draw.of("part", "shown", "out", "extra", "none", "strides", "grid", "latents")
    if kind == "part" or (kind == "shown" and layer.shown is None):
        layers[which] = replace(layer, part=elsewhere(draw, layer.part))
    elif kind == "shown":
        layers[which] = replace(layer, shown=elsewhere(draw, layer.shown))
    elif kind == "out":
        out = changed(draw, out)
    elif kind == "extra":
        extra = extra.new_zeros(len(layers) + 1, extra.shape[1])
    elif kind == "none":
        layers = []
    elif kind == "strides":
        out = out.new_zeros(3, target.size[0], target.size[1] + 1)[..., 1:]
    elif kind == "grid":
        layers[which] = replace(layer, grid=replace(layer.grid, rows=(0, layer.grid.size[0] + 1)))
    else:
        modulation = draw.of(modulation[0], modulation[..., 1:], modulation[:, :0], torch.cat([modulation] * 2))
    with pytest.raises(ValueError, match=" "):
        kernels.render_layers(out, target, layers, modulation, code, extra, image, weights, encoding)


def wrong_enlarge(draw: Draw) -> None:
    source, target = draw.grid(), draw.grid(60)
    image, out, part = torch.zeros(3, *source.size), torch.zeros(3, *target.size), draw.region(target.size)
    kind = draw.of("image", "out", "part", "source", "empty")
    if kind == "image":
        image = changed(draw, image)
    elif kind == "out":
        out = changed(draw, out)
    elif kind == "part":
        part = elsewhere(draw, part)
    elif kind == "source":
        source = replace(source, rows=(source.rows[0], source.rows[1] + 1))
    else:
        source, image = replace(source, cols=(0, 0)), image[..., :0]
    with pytest.raises(ValueError, match=" "):
        enlarge(image, source, target, out, part)


def convolved(draw: Draw) -> None:
    """Compare a convolution and its gradients with float64."""
    batch, inputs, outputs, h, w = draw(0, 3), draw(8, 150), draw(8, 80), draw(1, 20), draw(1, 20)

    def laid_out(t: Tensor) -> Tensor:
        """Return ``t`` in some memory layout."""
        kind = draw.of("plain", "last", "wide", "turned")
        if kind == "wide":
            more = draw.normal(t.shape[0], t.shape[1] + draw(1, 9), *t.shape[2:], dtype=t.dtype)
            more = more.contiguous(memory_format=torch.channels_last)
            more[:, : t.shape[1]] = t
            return more[:, : t.shape[1]]
        if kind == "turned":
            return t.transpose(2, 3).contiguous().transpose(2, 3)
        return t.contiguous(memory_format=torch.channels_last if kind == "last" else torch.contiguous_format)

    x = laid_out(draw.normal(batch, inputs, h, w, dtype=torch.float32))
    weight = laid_out(draw.normal(outputs, inputs, 3, 3, dtype=torch.float32, gain=(9 * inputs) ** -0.5))
    bias = draw.normal(outputs, dtype=torch.float32) if draw.of(True, False) else None
    skip = laid_out(draw.normal(batch, outputs, h, w, dtype=torch.float32))
    grad, scale = laid_out(draw.normal(batch, outputs, h, w, dtype=torch.float32)), draw.of(1.0, 0.1)
    leaves = [t.requires_grad_() for t in (x, weight, skip)]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    plain = F.conv2d(doubles[0], doubles[1], None if bias is None else bias.double(), padding=1)
    expected = scale * plain + doubles[2]
    fused = kernels.conv3x3(x, weight, bias, skip=skip, scale=scale)
    wanted = (expected, *torch.autograd.grad(expected, doubles, grad.double()))
    for got, exact in zip((fused, *torch.autograd.grad(fused, leaves, grad)), wanted, strict=True):
        most = float(exact.detach().abs().max()) if exact.numel() else 0.0
        torch.testing.assert_close(got.double(), exact, atol=1e-5 * max(1.0, most), rtol=0)


VALID = (scattered, gradients, axes, grids, enlarged, painted, convolved)
INVALID = (misfits, wrong_layers, wrong_enlarge)
