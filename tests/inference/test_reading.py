"""Tests of reading pictures ahead."""

import threading
from concurrent.futures import wait

import numpy as np
import pytest

from lmf import io
from lmf.inference import reading


@pytest.fixture
def paths(tmp_path):
    for n in range(3):
        io.write(tmp_path / f"{n}.png", np.full((10, 12, 3), n, np.uint8))
    return [tmp_path / f"{n}.png" for n in range(3)]


@pytest.fixture
def begun(monkeypatch):
    """The files that have been opened."""
    names, opened = [], reading.opened
    monkeypatch.setattr(reading, "opened", lambda path, limit: [names.append(path.name), opened(path, limit)][1])
    return names


def test_the_next_picture_is_read_meanwhile(paths, begun, monkeypatch):
    pictures = reading.in_order(paths, io.MAX_PIXELS)
    first = next(pictures).result()
    assert first.pages == 1
    assert next(first.pictures).pixels.max() == 0
    second = next(pictures)
    wait([second], 10)
    assert begun == ["0.png", "1.png"]
    assert next(second.result().pictures).pixels.max() == 1
    assert next(next(pictures).result().pictures).pixels.max() == 2
    assert next(pictures, None) is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_large_pictures_wait_until_they_are_asked_for(paths, begun, monkeypatch):
    monkeypatch.setattr(reading, "AHEAD", 119)
    pictures = reading.in_order(paths, io.MAX_PIXELS)
    next(pictures).result()
    second = next(pictures)
    second.result()
    assert begun == ["0.png", "1.png"]
    pictures.close()
    assert begun == ["0.png", "1.png"]


def test_an_error_belongs_to_its_picture(paths):
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    first, second, third = (future.exception() for future in reading.in_order(paths, io.MAX_PIXELS))
    assert first is third is None
    assert isinstance(second, io.ImageError)
