"""Trains decoders on precomputed features of a frozen encoder, which is many times faster than training on pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from lmf.data.datamodule import SRDataModule
from lmf.data.degradations import Array, resize_pil
from lmf.data.folder import ImageFolder
from lmf.data.sampling import choose, crop_size, permutation
from lmf.data.settings import DataError, Sampling, check_count
from lmf.io.files import making_folder


class FeatureDataModule(SRDataModule):
    """An `SRDataModule` that trains on windows of features instead of pictures.

    The features of a fixed number of random crops are computed once and stored in the cache, see `FeatureSamples`.
    Training batches also contain "feat" (B, C, p, p) float16, where p is the side of a window in LR pixels.

    Args:
        encoder: an `lmf.encoders.Encoder` in evaluation mode.
        margin: distance in LR pixels up to which a colour depends on the features, ``Decoder.receptive_field``.
        encoder_input: converts pictures in [-1, 1] to the input of the encoder, ``Decoder.encoder_input``.
        crops: number of crops.
        crop_side: side of the LR picture of a crop in pixels.
        device: device that computes the features.
        options: options of `SRDataModule`.

    Raises:
        DataError: if there is no cache, photometric augmentations are given, or settings are out of range.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        margin: int,
        encoder_input: Callable[[Tensor], Tensor] = torch.positive,
        crops: int,
        crop_side: int = 96,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if len(self.augment.photometric) or self.files.cache is None:
            raise DataError("training on cached crops needs data.cache and no data.photometric")
        self.encoder, self.margin, self.device = encoder, margin, device
        self.encoder_input = encoder_input
        self.crops, self.crop_side = crops, crop_side

    def prepare(self, stage: str | None = None) -> None:
        """Download missing pictures of a stage, then compute missing features for training."""
        super().prepare(stage)
        if stage in ("fit", None):
            self.make_samples().encode(self.device)

    def make_samples(self) -> FeatureSamples:
        """Create the training samples, see `SRDataModule.make_samples`."""
        skip = self.files.on_corrupt == "skip"  # a crop is drawn for one picture and does not fit its replacement
        return FeatureSamples(
            self.images(self.crop_side, decode=skip),
            self.files.cache or "",
            self.encoder,
            margin=self.margin,
            encoder_input=self.encoder_input,
            seed=self.seed,
            crops=self.crops,
            side=self.crop_side,
            sampling=self.sampling,
        )


@dataclass(frozen=True)
class Crop:
    """A square crop of an image, flipped and transposed.

    Attributes:
        image: number of the image in the folder.
        top: first row in HR pixels.
        left: first column in HR pixels.
        side: height and width in HR pixels.
        flip: whether to flip vertically, flip horizontally and transpose, in this order.
    """

    image: int
    top: int
    left: int
    side: int
    flip: tuple[bool, bool, bool]

    def cut(self, photograph: Array) -> Array:
        """Return the crop (side, side, 3) of ``photograph`` (H, W, 3)."""
        picture = photograph[self.top : self.top + self.side, self.left : self.left + self.side]
        vertical, horizontal, transpose = self.flip
        picture = picture[:: -1 if vertical else 1, :: -1 if horizontal else 1]
        return picture.swapaxes(0, 1) if transpose else picture


class FeatureSamples:
    """An endless list of training samples: windows of LR features, and colours of HR pixels inside them.

    Each of a fixed number of crops has a random position, scale and flip. The crops are encoded once. Their features
    are stored in half precision in memory-mapped files, in a folder named by a hash of everything that they depend on.

    Sample n is a pure function of (seed, n). It is a random window of a random crop, ``patch + 2 margin`` LR pixels
    wide. Targets keep the distance ``margin`` from its sides, except from sides of the crop. The decoder therefore
    computes the same colours from the window as from the whole crop.

    Args:
        images: the images, all at least ``crop_size(side, max_scale)`` pixels high and wide.
        folder: parent of the folder of features. It may be deleted when no process uses it.
        encoder: an `lmf.encoders.Encoder` in evaluation mode.
        margin: distance in LR pixels up to which a colour depends on the features, ``Decoder.receptive_field``.
        encoder_input: see `FeatureDataModule`.
        seed: any integer of at least 0.
        crops: number of crops.
        side: side of the LR picture of a crop in pixels, a multiple of ``encoder.multiple``.
        sampling: ``patch`` is the side of the window without margins, the scales are those of the crops.

    Raises:
        DataError: if a setting is out of range.
    """

    def __init__(
        self,
        images: ImageFolder,
        folder: str | Path,
        encoder: nn.Module,
        *,
        margin: int,
        encoder_input: Callable[[Tensor], Tensor] = torch.positive,
        seed: int,
        crops: int,
        side: int,
        sampling: Sampling,
    ) -> None:
        self.window = sampling.patch + 2 * margin
        check_count("cached_crops", crops)
        if side < self.window or side % cast(int, encoder.multiple):
            raise DataError(
                f"crop_side must be at least {self.window} LR pixels (patch {sampling.patch} and a margin of {margin} "
                f"on both sides) and a multiple of {encoder.multiple}, got {side}"
            )
        self.images, self.encoder, self.encoder_input = images, encoder, encoder_input
        self.margin, self.seed, self.side, self.queries = margin, seed, side, sampling.queries
        self.crops = [self._crop(number, sampling.min_scale, sampling.max_scale) for number in range(crops)]
        self.folder = Path(folder).expanduser() / f"features-{self._fingerprint()}"

    def _crop(self, number: int, min_scale: float, max_scale: float) -> Crop:
        """Draw crop ``number``."""
        rng = np.random.default_rng((2, self.seed, number))
        count = len(self.images)
        image = int(permutation(self.seed, number // count, count)[number % count])
        side = crop_size(self.side, rng.uniform(min_scale, max_scale))
        top, left = (int(rng.integers(n - side + 1)) for n in self.images.sizes[image])
        vertical, horizontal, transpose = (bool(bit) for bit in rng.integers(2, size=3))
        return Crop(image, top, left, side, (vertical, horizontal, transpose))

    def _fingerprint(self) -> str:
        """Return a hash of the crops, the image files and the encoder."""
        digest = hashlib.sha256(json.dumps([self.side, [vars(crop) for crop in self.crops]]).encode())
        for path in self.images.paths:
            status = path.stat()
            digest.update(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        digest.update(type(self.encoder).__qualname__.encode())
        for key, value in self.encoder.state_dict().items():
            digest.update(key.encode() + value.cpu().numpy().tobytes())
        probe = torch.linspace(-1, 1, 5).expand(1, 3, 1, 5)
        if not torch.equal(converted := self.encoder_input(probe), probe):
            digest.update(converted.numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def encode(self, device: torch.device | str = "cpu", batch_size: int = 8) -> None:
        """Compute the features of all crops, unless the folder exists.

        Several processes may do so at once. The first one to finish creates the folder.

        Args:
            device: device that computes the features.
            batch_size: crops per batch.

        Raises:
            DataError: if the folder cannot be written or the disk has too little space.
        """
        if self.folder.is_dir():
            return
        before = next(self.encoder.parameters(), torch.empty(0)).device
        try:
            self._check_space()
            with making_folder(self.folder) as temporary:
                self._encode(temporary, self.encoder.to(device), device, batch_size)
        except OSError as error:
            raise DataError(f"cannot write the features {self.folder}: {error.strerror or error}") from error
        finally:
            self.encoder.to(before)

    def _check_space(self) -> None:
        """Check that the disk has space for the features."""
        need = len(self.crops) * self.side**2 * (2 * cast(int, self.encoder.out_channels) + 3)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(self.folder.parent).free) < need:
            raise DataError(
                f"the features of {len(self.crops)} crops need {need / 1e9:.1f} GB in {self.folder.parent}, which has "
                f"{free / 1e9:.1f}; ask for fewer (schedule.cached_crops) or another folder (paths.cache)"
            )

    def _encode(self, folder: Path, encoder: nn.Module, device: torch.device | str, batch_size: int) -> None:
        """Write the LR pictures and the features of all crops to ``folder``."""
        count, side, width = len(self.crops), self.side, cast(int, encoder.out_channels)
        features = np.lib.format.open_memmap(folder / "feat.npy", "w+", np.float16, (count, side, side, width))
        pictures = np.lib.format.open_memmap(folder / "lr.npy", "w+", np.uint8, (count, side, side, 3))
        for start in track(range(0, count, batch_size), "encoding", transient=True):
            part = slice(start, min(start + batch_size, count))
            for number in range(part.start, part.stop):
                pictures[number] = resize_pil(np.ascontiguousarray(self._hr(number)), (side, side))
            lr = torch.from_numpy(pictures[part]).to(device).permute(0, 3, 1, 2)  # channels-last in memory
            features[part] = encoder(self.encoder_input(lr / 127.5 - 1)).permute(0, 2, 3, 1).half().cpu().numpy()
        features.flush()
        pictures.flush()

    def _hr(self, number: int) -> Array:
        """Return the HR picture (side, side, 3) of crop ``number``."""
        crop = self.crops[number]
        return crop.cut(self.images[crop.image])

    @cached_property
    def feat(self) -> Array:
        """Features of all crops, float16 (N, side, side, C), memory-mapped."""
        feat: Array = np.load(self.folder / "feat.npy", mmap_mode="r")
        return feat

    @cached_property
    def lr(self) -> Array:
        """LR pictures of all crops, uint8 (N, side, side, 3), memory-mapped."""
        lr: Array = np.load(self.folder / "lr.npy", mmap_mode="r")
        return lr

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor] | DataError:
        """Return samples ``numbers`` as one batch.

        Returns:
            Dictionary of feat, float16 (B, C, P, P), channels-last; lr (B, 3, P, P) and target (B, Q, 3), float32 in
            [0, 1]; coord (B, Q, 2) and cell (B, 2), float32 in coordinates of the window. P is the side of a window.
            If a sample cannot be created, the `DataError`, see `TrainSamples.__getitems__`.
        """
        try:
            samples = [self.sample(number) for number in numbers]
        except DataError as error:
            return error
        batch = {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}
        return {
            "feat": batch["feat"].permute(0, 3, 1, 2),
            "lr": batch["lr"].permute(0, 3, 1, 2).float() / 255,
            "coord": batch["coord"],
            "cell": batch["cell"],
            "target": batch["target"].float() / 255,
        }

    def sample(self, number: int) -> dict[str, Array]:
        """Return sample ``number``: the entries of `__getitems__` without B, channels-last, colours in uint8."""
        rng = np.random.default_rng((0, self.seed, number))
        count = len(self.crops)
        crop = int(permutation(self.seed, number // count, count)[number % count])
        picture = self._hr(crop)
        ratio = self.side / len(picture)  # LR pixels per HR pixel
        top, left = (int(n) for n in rng.integers(self.side - self.window + 1, size=2))
        rows, columns = self._targets(top, ratio), self._targets(left, ratio)
        pixel = choose(rng, len(rows) * len(columns), self.queries)
        y, x = rows[pixel // len(columns)], columns[pixel % len(columns)]
        position = (np.stack([y, x], axis=-1) + 0.5) * ratio - (top, left)  # in LR pixels from the window's corner
        window = (crop, slice(top, top + self.window), slice(left, left + self.window))
        return {
            "feat": self.feat[window],
            "lr": self.lr[window],
            "coord": (2 / self.window * position - 1).astype(np.float32),
            "cell": np.full(2, 2 / self.window * ratio, np.float32),
            "target": picture[y, x],
        }

    def _targets(self, start: int, ratio: float) -> Array:
        """Return the HR rows (or columns) that may be targets in a window that starts at LR row ``start``."""
        stop = start + self.window
        inner = start + (self.margin if start else 0), stop - (self.margin if stop < self.side else 0)
        first, last = (int(np.ceil(edge / ratio - 0.5)) for edge in inner)
        return np.arange(first, last)
