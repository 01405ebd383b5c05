from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material (goldens, benchmark sets, published weights) that lies beside a developer's checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference material beside the repository")
    return folder
