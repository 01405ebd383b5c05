"""Conformance tests for decoders, including those outside this package.

They check what renderers, training and the other parts of the package rely on, on the CPU and within seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmf.decoders.base import Decoder, Latent
from lmf.grid import Grid, Size, Strip

CHANNELS = 8
SIZES: Sequence[tuple[Size, Size]] = (  # input, output
    ((5, 7), (14, 19)),
    ((6, 5), (3, 2)),
    ((4, 4), (4, 4)),
    ((1, 1), (5, 3)),
    ((2, 9), (12, 54)),
)

Make = Callable[[int], Decoder]


def check_decoder(make: Make) -> None:
    """Check that a decoder does what `Decoder` promises.

    Args:
        make: creates the decoder from the number of feature channels, such as its class. It is called several times and
            may initialise weights at random.

    Raises:
        AssertionError: if the decoder fails a check. The message says which.
    """
    for check in CHECKS:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            check(make)


def check_shapes(make: Make) -> None:
    """Check shapes, types and finiteness for input sizes down to 1 x 1 and scales below and above 1."""
    decoder = make(CHANNELS).eval()
    expect(decoder.in_channels == CHANNELS, f"in_channels must be {CHANNELS} as given, got {decoder.in_channels}")
    for lr_size, size in SIZES:
        where = f"{lr_size} to {size}"
        latent, target, cell = encode(decoder, *inputs(2, lr_size), size)
        expect(isinstance(latent, Latent), f"latent() must return a Latent, got {type(latent).__name__}")
        expect(tuple(latent.size) == lr_size, f"{where}: the latent's size must be {lr_size}, got {latent.size}")
        coord = torch.rand(2, 11, 2) * 2 - 1
        check_colours(decoder.query(latent, coord, cell), (2, 11, 3), f"{where}: query()")
        check_colours(decoder.render(latent, target, cell), (2, 3, *size), f"{where}: render()")
        strength = decoder.intensity(latent)
        if strength is not None:
            expect(strength.shape == (2, *lr_size), f"{where}: intensity() must be (B, h, w), got {strength.shape}")


def check_state(make: Make) -> None:
    """Check that calls leave no trace in the decoder or in their inputs."""
    decoder = make(CHANNELS).eval()
    feat, image = inputs(1, (5, 7))
    given = feat.clone(), image.clone()
    latent, target, cell = encode(decoder, feat, image, (14, 19))
    before = decoder.render(latent, target, cell)
    picture_of(decoder, *inputs(2, (4, 3)), (9, 8))
    after = decoder.render(latent, target, cell)
    expect(torch.equal(before, after), "rendering a latent again must give the same picture, whatever ran in between")
    expect(torch.equal(feat, given[0]) and torch.equal(image, given[1]), "inputs must not be changed")


def check_pixels(make: Make) -> None:
    """Check that a pixel does not depend on the other queries: in whole pictures, in parts, among any coordinates.

    For a decoder that is not pointwise, this holds after `Decoder.summarise`.
    """
    decoder = make(CHANNELS).eval()
    for lr_size, size in SIZES:
        latent, target, cell = encode(decoder, *inputs(2, lr_size), size)
        picture, coord = decoder.render(latent, target, cell), target.coord().expand(2, -1, 2)
        colours = picture.flatten(2).mT  # (B, Q, 3)
        expect_close(decoder.query(latent, coord, cell), colours, "render() must equal query() at the pixels")
        order = torch.randperm(coord.shape[1])[: math.ceil(coord.shape[1] / 2)]
        some = decoder.query(latent, coord[:, order], cell)
        expect_close(some, colours[:, order], "a colour must not depend on the other coordinates of the query")
        part = decoder.render(latent, target.band(1, size[0]), cell)
        expect_close(part, picture[:, :, 1:], "rendering some rows must equal these rows of the whole picture")


def check_summary(make: Make) -> None:
    """Check that `Decoder.summarise` keeps the picture and does its work once."""
    decoder = make(CHANNELS).eval()
    expect(
        decoder.pointwise or decoder.receptive_field is None,
        f"a decoder that is not pointwise must have receptive_field None, got {decoder.receptive_field}",
    )
    for lr_size, size in SIZES:
        feat, image = inputs(2, lr_size)
        summarised, target, cell = encode(decoder, feat, image, size)
        whole = decoder.render(decoder.latent(feat, image, cell), target, cell)
        expect_close(decoder.render(summarised, target, cell), whole, "summarise() must not change the picture")
        again = decoder.summarise(summarised, target.band(0, 1), cell)
        expect_close(decoder.render(again, target, cell), whole, "summarise() must leave a summarised latent alone")


def check_batches(make: Make) -> None:
    """Check that the images of a batch do not affect each other."""
    decoder = make(CHANNELS).eval()
    feat, image = inputs(2, (5, 7))
    latent, target, cell = encode(decoder, feat, image, (14, 19))
    both = decoder.render(latent, target, cell)
    for i in range(2):
        alone = picture_of(decoder, feat[i : i + 1], image[i : i + 1], (14, 19))
        expect_close(alone, both[i : i + 1], "an image in a batch must be rendered as it is alone")
        single = decoder.render(latent.single(i), target, cell[i : i + 1])
        expect_close(single, both[i : i + 1], "every tensor of the latent must have the batch as its first dimension")


def check_receptive_field(make: Make) -> None:
    """Check that colours depend only on LR pixels within `Decoder.receptive_field`, and not on absolute positions."""
    decoder = make(CHANNELS).eval()
    reach = decoder.receptive_field
    if reach is None:
        return
    step = decoder.multiple
    cut = math.ceil((reach + 2) / step) * step
    n = 3 * reach + 6 + step * 2
    size, lr_size = (round(2.7 * n), round(2.7 * n)), (n, n)
    feat, image = inputs(1, lr_size)
    whole = picture_of(decoder, feat, image, size)
    first = next(i for i in range(size[0]) if (i + 0.5) * n / size[0] > cut + reach + 1e-3)  # first row out of reach
    message = f"receptive_field is {reach}, but a colour depends on an LR pixel farther away"
    for dim in (2, 3):
        other, other_image = feat.clone(), image.clone()
        other.narrow(dim, 0, cut).neg_().add_(1)
        other_image.narrow(dim, 0, cut).neg_()
        changed = picture_of(decoder, other, other_image, size)
        kept = size[0] - first
        expect_close(changed.narrow(dim, first, kept), whole.narrow(dim, first, kept), message)
    strip, late = Strip(cut, n, n), (first, size[0])
    rows = Grid((size[0], size[1]), late, (0, size[1]), strip)
    cols = Grid((size[0], size[1]), (0, size[0]), late, column_strip=strip)
    for dim, target, part_size in ((2, rows, (n - cut, n)), (3, cols, (n, n - cut))):
        part = feat.narrow(dim, cut, n - cut), image.narrow(dim, cut, n - cut)
        cell = decoder.cell(target, part_size, 1, feat.device)
        drawn = decoder.render(decoder.latent(*part, cell), target, cell)
        wanted = whole.narrow(dim, first, size[0] - first)
        expect_close(drawn, wanted, "a picture computed in strips must equal the whole picture")


def check_precision(make: Make) -> None:
    """Check that the type of the colours follows the inputs: float64 for a float64 decoder."""
    decoder = make(CHANNELS).eval()
    feat, image = inputs(1, (5, 7))
    single = picture_of(decoder, feat, image, (14, 19))
    double = picture_of(decoder.double(), feat.double(), image.double(), (14, 19))
    expect(double.dtype == torch.float64, f"a float64 decoder must render in float64, got {double.dtype}")
    expect_close(double.float(), single, "float64 and float32 must render the same picture")


def check_gradients(make: Make) -> None:
    """Check that training reaches every parameter, and the encoder if there are parameters."""
    decoder = make(CHANNELS)
    parameters = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
    if not parameters:
        return
    feat, image = inputs(2, (6, 6))
    feat.requires_grad_()
    cell = torch.full((2, 2), 0.1)
    with torch.enable_grad():
        decoder.query(decoder.latent(feat, image, cell), torch.rand(2, 40, 2) * 2 - 1, cell).square().sum().backward()
    for name, tensor in {"feat": feat, **parameters}.items():
        expect(tensor.grad is not None, f"{name} gets no gradient")
        expect(tensor.grad is not None and bool(tensor.grad.isfinite().all()), f"the gradient of {name} is not finite")


def check_copy(make: Make) -> None:
    """Check that `state_dict` holds all that differs between two decoders with the same options."""
    decoder, copy = make(CHANNELS).eval(), make(CHANNELS).eval()
    copy.load_state_dict(decoder.state_dict())
    feat, image = inputs(1, (5, 7))
    pictures = [picture_of(each, feat, image, (14, 19)) for each in (decoder, copy)]
    expect_close(pictures[1], pictures[0], "a decoder that loads the state_dict of another must render the same")


CHECKS: Sequence[Callable[[Make], None]] = (
    check_shapes,
    check_state,
    check_pixels,
    check_summary,
    check_batches,
    check_receptive_field,
    check_precision,
    check_gradients,
    check_copy,
)


def inputs(batch: int, size: Size) -> tuple[Tensor, Tensor]:
    """Return random features (B, C, h, w) and images (B, 3, h, w) in [-1, 1]."""
    return torch.randn(batch, CHANNELS, *size), torch.rand(batch, 3, *size) * 2 - 1


def encode(decoder: Decoder, feat: Tensor, image: Tensor, size: Size) -> tuple[Latent, Grid, Tensor]:
    """Return the latent, the output pixels and the cell of an enlargement to ``size``.

    The latent is summarised if the decoder is not pointwise.
    """
    target, lr_size = Grid.of(*size), (feat.shape[-2], feat.shape[-1])
    cell = decoder.cell(target, lr_size, len(feat), feat.device, feat.dtype)
    latent = decoder.latent(feat, image, cell)
    return latent if decoder.pointwise else decoder.summarise(latent, target, cell), target, cell


def picture_of(decoder: Decoder, feat: Tensor, image: Tensor, size: Size) -> Tensor:
    """Return the picture (B, 3, H, W) of ``size``."""
    return decoder.render(*encode(decoder, feat, image, size))


def check_colours(rgb: Tensor, shape: Sequence[int], name: str) -> None:
    """Check the shape, the type and the finiteness of colours."""
    expect(tuple(rgb.shape) == tuple(shape), f"{name} must return {tuple(shape)}, got {tuple(rgb.shape)}")
    expect(rgb.dtype == torch.float32, f"{name} must return float32 for float32 inputs, got {rgb.dtype}")
    expect(bool(rgb.isfinite().all()), f"{name} must return finite colours")


def expect_close(actual: Tensor, expected: Tensor, message: str) -> None:
    """Check that two tensors agree up to rounding."""
    limit = 1e-4 * max(1.0, expected.abs().max().item())
    difference = (actual - expected).abs().max().item()
    expect(difference <= limit, f"{message}; they differ by {difference:.2g}")


def expect(condition: bool, message: str) -> None:
    """Raise an AssertionError with ``message`` unless ``condition`` holds, also with ``python -O``."""
    if not condition:
        raise AssertionError(message)
