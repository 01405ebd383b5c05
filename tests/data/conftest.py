from pathlib import Path

import numpy as np
import pytest

from lmf import io
from lmf.data import ImageFolder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of five pictures of noise, 40 x 48 pixels and larger."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for n in range(5):
        io.write(root / f"{n}.png", rng.integers(0, 256, (40 + n, 48 + 3 * n, 3), dtype=np.uint8))
    return root


@pytest.fixture
def images(photos: Path, tmp_path: Path) -> ImageFolder:
    return ImageFolder(sorted(photos.iterdir()), tmp_path / "cache")
