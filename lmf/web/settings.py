"""Limits of the server."""

from __future__ import annotations

from dataclasses import dataclass

from lmf.errors import UserError

SCALES = (0.5, 32.0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server accepts and keeps.

    Attributes:
        max_bytes: largest uploaded file.
        max_pixels: largest picture, in pixels.
        max_view: largest view, in output pixels.
        max_output: largest downloaded picture, in pixels.
        sessions: largest number of pages that are open at the same time.
        idle: seconds without a request after which a page's picture and latents are freed.
        latents: bytes of latents kept in memory, for all pages together.
        hosts: names by which browsers may reach the server, besides ``localhost`` and IP addresses.

    Raises:
        UserError: if a limit is not positive.
    """

    max_bytes: int = 100 << 20
    max_pixels: int = 40_000_000
    max_view: int = 16_000_000
    max_output: int = 400_000_000
    sessions: int = 32
    idle: float = 900.0
    latents: int = 1 << 30
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "hosts" and not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
