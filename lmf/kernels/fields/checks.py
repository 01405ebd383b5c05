"""Checks of the tensors of heat fields, made before their addresses are taken; values are not read."""

from __future__ import annotations

from torch import Tensor

from lmf.kernels.checks import check_size, expect, shown


def check_latents(latents: Tensor, frequencies: Tensor, decay: Tensor, base: Tensor) -> None:
    """Check the first arguments of `lmf.kernels.fields.render`.

    Raises:
        ValueError: if they do not fit each other.
    """
    if not latents.is_floating_point():
        raise ValueError(f"latents must be floating point, got {latents.dtype}")
    expect("latents", latents, latents, "B", "h", "w", "4 N")
    expect("frequencies", frequencies, latents, 2, "N")
    batch, height, width, numbers = latents.shape
    waves = frequencies.shape[1]
    if not waves or numbers != 4 * waves:
        raise ValueError(f"{waves} frequencies need {4 * waves} numbers of a latent, got {shown(latents)}")
    expect("decay", decay, latents, batch, waves)
    expect("base", base, latents, batch, 3, height, width)
    check_size("latents", height, width)


def check_places(latents: Tensor, index: Tensor, offset: Tensor) -> None:
    """Check that ``index`` is (B, Q) and ``offset`` (B, Q, 2).

    Raises:
        ValueError: if not.
    """
    expect("offset", offset, latents, latents.shape[0], "Q", 2)
    expect("index", index, latents.new_empty(0).long(), *offset.shape[:2])


def check_grid(latents: Tensor, row: Tensor, row_offset: Tensor, column: Tensor, column_offset: Tensor) -> None:
    """Check that the rows are (H,) and the columns (W,).

    Raises:
        ValueError: if not.
    """
    for name, index, offset in (("rows", row, row_offset), ("columns", column, column_offset)):
        expect(f"the offsets of {name}", offset, latents, "n")
        expect(f"the indices of {name}", index, latents.new_empty(0).long(), *offset.shape)
