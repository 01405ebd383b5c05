"""The pages of the documentation, and the commands and examples in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from ..conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
INLINE = re.compile(r"(?<!`)`((?:lmf|make|pip|python) [^`]+)`(?!`)")
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a bash block.

    Attributes:
        program: its first word; ``.venv/bin/lmf`` counts as ``lmf``.
        arguments: the other words, unquoted.
        environment: what stands before it, as in ``PYTHONPATH=notebooks lmf``.
        page: where it was found first; not compared.
    """

    program: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    page: str = field(default="", compare=False)

    @classmethod
    def of(cls, words: list[str], page: str = "") -> Command:
        assigned = []
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words[0].partition("=")
            assigned.append((name, value))
            words = words[1:]
        return cls(words[0].removeprefix(".venv/bin/"), tuple(words[1:]), tuple(assigned), page)

    def __str__(self) -> str:
        return " ".join([*(f"{k}={v}" for k, v in self.environment), shlex.join([self.program, *self.arguments])])


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return [(m[2], re.sub(f"^{m[1]}", "", m[3], flags=re.MULTILINE)) for m in FENCE.finditer(page.read_text())]


def prose(page: Path) -> str:
    """What is outside the fenced blocks."""
    return FENCE.sub("", page.read_text())


def parse(line: str, page: str = "") -> Iterator[Command]:
    """The commands of a line, which ``&&`` separates."""
    words = shlex.split(line, comments=True)
    for separator, command in groupby(words, lambda word: word == "&&"):
        if not separator:
            yield Command.of(list(command), page)


def commands() -> list[Command]:
    """All commands of all pages, in bash blocks and in the prose, each once."""
    found: dict[Command, None] = {}
    for page in PAGES:
        scripts = [text for language, text in blocks(page) if language == "bash"]
        spans = [span for span in INLINE.findall(prose(page)) if span != "lmf upscale"]  # the name, not a command
        for line in "\n".join([*scripts, *spans]).replace("\\\n", " ").splitlines():
            found |= dict.fromkeys(parse(line, str(page.relative_to(ROOT))))
    return list(found)
