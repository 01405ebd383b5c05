"""Tests of the line that shows how far an enlargement is."""

import io as memory
import logging
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest

from lmf import io
from lmf.inference import progress
from lmf.inference.progress import Progress, duration


class Terminal(memory.StringIO):
    """A stream that says it is a terminal, and what it shows."""

    def isatty(self):
        return True

    def shown(self):
        return re.split(r"\r|\x1b\[K", self.getvalue())


def at(seconds, total=1, stream=None):
    """Return a progress that began ``seconds`` ago."""
    times = iter([0.0])
    return Progress(total, stream=stream or Terminal(), clock=lambda: next(times, float(seconds)))


@pytest.mark.parametrize(
    ("total", "done", "more", "expected"),
    [
        (1, 0, 0, "a.png    0%"),
        (1, 0, 0.25, "a.png   25%  0:30 left"),
        (1, 0, 1, "a.png  100%  0:00 left"),
        (4, 2, 0.5, "a.png  3/4  62%  0:06 left"),
        (2, 1, 1, "a.png  2/2 100%  0:00 left"),
    ],
)
def test_what_the_line_says(total, done, more, expected):
    bar = at(10, total)
    bar.begin("a.png", done)
    bar.advance(more)
    assert bar.line(80) == expected


@pytest.mark.parametrize("columns", [10, 30, 40, 80])
def test_the_line_is_shorter_than_the_terminal(columns):
    bar = at(10, 3)
    bar.begin("a photograph with a very long name, taken on a summer's day at the sea.png", 0)
    bar.advance(0.001)
    assert len(bar.line(columns)) < columns


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.9, "1:00:00"), (36000, "10:00:00")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_pipe_shows_nothing(monkeypatch):
    monkeypatch.setattr(progress, "_DELAY", 0.01)
    stream = memory.StringIO()
    with Progress(1, stream=stream) as bar:
        bar.begin("a", 0)
        bar._ended.wait(0.1)
    assert stream.getvalue() == ""


def test_a_short_job_shows_nothing():
    terminal = Terminal()
    with Progress(1, stream=terminal) as bar:
        bar.begin("a", 0)
    assert terminal.getvalue() == ""


def test_log_records_do_not_mix_with_the_line(monkeypatch):
    """The line is erased before a record and at the end, and an unchanged line is not written again."""
    monkeypatch.setattr(progress, "_DELAY", 0.01)
    monkeypatch.setattr(progress, "_EVERY", 0.05)
    terminal = Terminal()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        with at(10, stream=terminal) as bar:
            bar.begin("a.png", 0)
            bar.advance(0.5)
            bar._ended.wait(0.4)  # eight updates
            logging.getLogger("lmf").error("a.png: wrong")
            bar._ended.wait(0.2)
    finally:
        logging.getLogger().removeHandler(handler)
    assert handler.filters == []
    line = "a.png   50%  0:10 left"
    assert [text for text in terminal.shown() if text] == [line, "a.png: wrong\n", line]
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_lmf_upscale_shows_it_on_a_terminal(tmp_path):
    io.write(tmp_path / "a.png", np.zeros((90, 90, 3), np.uint8))
    code = "from lmf.inference import progress; progress._DELAY = 0.01; from lmf.app.cli import main; main()"
    command = [sys.executable, "-c", code, "upscale", str(tmp_path / "a.png"), "--scale=4", f"--output={tmp_path}"]
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            more = os.read(master, 4096)
        except OSError:  # how Linux reports that the other end is closed
            break
        if not more:
            break
        shown += more
    assert process.wait() == 0
    assert re.search(rb"\ra\.png +\d+%", shown)
    assert b"\r\x1b[K" in shown
    assert b"INFO" in shown.rpartition(b"\x1b[K")[2] or shown.endswith(b"\x1b[K")
