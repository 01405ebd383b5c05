"""Training samples whose features a frozen encoder has computed beforehand: decoders train many times faster so."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from lmf.data.degradations import resize_pil
from lmf.data.folder import DataError, ImageFolder
from lmf.data.sampling import choose, crop_size, permutation


@dataclass(frozen=True)
class Scene:
    """A square crop of a photograph, flipped and transposed, and reduced to an LR picture."""

    image: int  # its number in the folder
    top: int
    left: int
    side: int  # in HR pixels
    flip: tuple[bool, bool, bool]  # vertically, horizontally, transpose; in this order

    def cut(self, photograph: np.ndarray) -> np.ndarray:
        """The HR picture (side, side, 3)."""
        picture = photograph[self.top : self.top + self.side, self.left : self.left + self.side]
        vertical, horizontal, transpose = self.flip
        picture = picture[:: -1 if vertical else 1, :: -1 if horizontal else 1]
        return picture.swapaxes(0, 1) if transpose else picture


class FeatureSamples:
    """An endless list of training samples: windows of LR features, and colours of HR pixels within.

    A fixed number of scenes, every one a random crop, scale and flip of a photograph, is encoded once; the features
    lie in a folder of memory-mapped half-precision files named for all that they depend on. Sample n, a pure function
    of (seed, n), is a random window of a random scene. A window is ``patch + 2 margin`` LR pixels wide, and its targets
    keep ``margin`` away from its sides, unless these are sides of the scene: so the decoder sees what it would see of
    the whole scene.

    Args:
        images: the photographs, all at least ``crop_size(side, max_scale)`` on both sides.
        folder: where folders of features are kept; they may be deleted at any time.
        encoder: an `lmf.encoders.Encoder` in evaluation mode.
        margin: how far, in LR pixels, a colour depends on the features: ``Decoder.receptive_field``.
        seed: any whole number.
        scenes: how many are encoded.
        side: of the LR picture of a scene in pixels, a multiple of what the encoder wants.
        patch: side of the part of a window that is surely trained on.
        queries: number of target pixels per sample.
        min_scale, max_scale: range of scales, of which every scene has one.

    Raises:
        DataError: settings out of range, or no photographs to be had.
    """

    def __init__(
        self,
        images: ImageFolder,
        folder: str | Path,
        encoder: nn.Module,
        *,
        margin: int,
        seed: int,
        scenes: int,
        side: int,
        patch: int,
        queries: int,
        min_scale: float,
        max_scale: float,
    ) -> None:
        self.window = patch + 2 * margin
        if scenes < 1:
            raise DataError(f"scenes must be at least 1, got {scenes}")
        if side < self.window or side % int(encoder.multiple):  # type: ignore[arg-type]
            raise DataError(
                f"scenes must be at least {self.window} LR pixels wide (patch {patch} and {margin} on either side) "
                f"and a multiple of {encoder.multiple}, got {side}"
            )
        self.images, self.encoder = images, encoder
        self.margin, self.seed, self.side, self.queries = margin, seed, side, queries
        self.scenes = [self._scene(number, min_scale, max_scale) for number in range(scenes)]
        self.folder = Path(folder).expanduser() / f"features-{self._fingerprint()}"

    def _scene(self, number: int, min_scale: float, max_scale: float) -> Scene:
        rng = np.random.default_rng((2, self.seed, number))
        count = len(self.images)
        image = int(permutation(self.seed, number // count, count)[number % count])
        side = crop_size(self.side, rng.uniform(min_scale, max_scale))
        top, left = (int(rng.integers(n - side + 1)) for n in self.images.sizes[image])
        vertical, horizontal, transpose = (bool(bit) for bit in rng.integers(2, size=3))
        return Scene(image, top, left, side, (vertical, horizontal, transpose))

    def _fingerprint(self) -> str:
        """Of the scenes and the encoder."""
        digest = hashlib.sha256(json.dumps([self.side, [vars(scene) for scene in self.scenes]]).encode())
        for path in self.images.paths:
            status = path.stat()
            digest.update(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        digest.update(type(self.encoder).__qualname__.encode())
        for key, value in self.encoder.state_dict().items():
            digest.update(key.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def encode(self, device: torch.device | str = "cpu", batch_size: int = 8) -> None:
        """Computes the features of all scenes on ``device``, unless the folder has them.

        Raises:
            DataError: too little room on the disk.
        """
        if self.folder.is_dir():
            return
        count, side, width = len(self.scenes), self.side, int(self.encoder.out_channels)  # type: ignore[arg-type]
        need = count * side * side * (2 * width + 3)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(self.folder.parent).free) < need:
            raise DataError(
                f"the features of {count} scenes need {need / 1e9:.1f} GB in {self.folder.parent}, which has "
                f"{free / 1e9:.1f}; ask for fewer (schedule.scenes) or another folder (paths.cache)"
            )
        temporary = self.folder.with_name(f".{self.folder.name}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        before = next(self.encoder.parameters(), torch.empty(0)).device
        try:
            features = np.lib.format.open_memmap(temporary / "feat.npy", "w+", np.float16, (count, side, side, width))
            pictures = np.lib.format.open_memmap(temporary / "lr.npy", "w+", np.uint8, (count, side, side, 3))
            self.encoder.to(device)
            for start in track(range(0, count, batch_size), "encoding", transient=True):
                part = slice(start, min(start + batch_size, count))
                for number in range(part.start, part.stop):
                    pictures[number] = resize_pil(np.ascontiguousarray(self._hr(number)), (side, side))
                lr = torch.from_numpy(pictures[part]).to(device).permute(0, 3, 1, 2)  # channels-last in memory
                features[part] = self.encoder(lr / 127.5 - 1).permute(0, 2, 3, 1).half().cpu().numpy()
            del features, pictures  # flushes
            temporary.rename(self.folder)
        finally:
            self.encoder.to(before)
            shutil.rmtree(temporary, ignore_errors=True)

    def _hr(self, number: int) -> np.ndarray:
        scene = self.scenes[number]
        return scene.cut(self.images[scene.image])

    @cached_property
    def feat(self) -> np.ndarray:
        return np.load(self.folder / "feat.npy", mmap_mode="r")

    @cached_property
    def lr(self) -> np.ndarray:
        return np.load(self.folder / "lr.npy", mmap_mode="r")

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor] | DataError:
        """Samples ``numbers`` as one batch, P being the side of a window:

        feat (B, C, P, P) float16, channels-last; lr (B, 3, P, P), target (B, Q, 3): float32 in [0, 1];
        coord (B, Q, 2), cell (B, 2): float32, in a window's own coordinates.
        """
        try:
            samples = [self.sample(number) for number in numbers]
        except DataError as error:  # raised in a worker it would arrive wrapped in the worker's traceback
            return error
        batch = {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}
        return {
            "feat": batch["feat"].permute(0, 3, 1, 2),
            "lr": batch["lr"].permute(0, 3, 1, 2).float() / 255,
            "coord": batch["coord"],
            "cell": batch["cell"],
            "target": batch["target"].float() / 255,
        }

    def sample(self, number: int) -> dict[str, np.ndarray]:
        """Sample ``number``: the entries of `__getitems__` without B, channels-last, colours in uint8."""
        rng = np.random.default_rng((0, self.seed, number))
        count = len(self.scenes)
        at = int(permutation(self.seed, number // count, count)[number % count])
        picture = self._hr(at)
        ratio = self.side / len(picture)  # LR pixels to an HR pixel
        top, left = (int(n) for n in rng.integers(self.side - self.window + 1, size=2))
        rows, columns = self._targets(top, ratio), self._targets(left, ratio)
        pixel = choose(rng, len(rows) * len(columns), self.queries)
        y, x = rows[pixel // len(columns)], columns[pixel % len(columns)]
        place = (np.stack([y, x], axis=-1) + 0.5) * ratio - (top, left)  # in LR pixels from the window's corner
        window = (at, slice(top, top + self.window), slice(left, left + self.window))
        return {
            "feat": self.feat[window],
            "lr": self.lr[window],
            "coord": (2 / self.window * place - 1).astype(np.float32),
            "cell": np.full(2, 2 / self.window * ratio, np.float32),
            "target": picture[y, x],
        }

    def _targets(self, start: int, ratio: float) -> np.ndarray:
        """The HR rows (or columns) that a window from LR row ``start`` on may ask for."""
        stop = start + self.window
        inner = start + (self.margin if start else 0), stop - (self.margin if stop < self.side else 0)
        first, last = (int(np.ceil(edge / ratio - 0.5)) for edge in inner)
        return np.arange(first, last)
