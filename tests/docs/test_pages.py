"""What the pages of the documentation say besides commands: options, examples, links, the site."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from ..conftest import ROOT
from .conftest import composed
from .pages import PAGES, blocks, prose

CONF = ROOT / "conf"
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
OPTION = re.compile(r"(?<!`)`([a-z_][\w./@]*)=([^`\s]*)`(?!`)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def configs() -> list[DictConfig]:
    """Configs that have, together, all options."""
    tasks = [composed(f"task={task}") for task in TASKS]
    return [*tasks, composed("renderer=cmsr"), composed("data=folder"), composed("launcher=joblib"),
            composed("launcher=ray"), composed("search=optuna")]  # fmt: skip


def is_option(key: str, value: str, configs: list[DictConfig]) -> bool:
    """Whether ``key=value`` names a file of conf, or a value of one of ``configs``."""
    if (CONF / key).is_dir():
        return value.strip(".") == "" or value.isupper() or (CONF / key / f"{value}.yaml").is_file()
    parent, _, last = key.rpartition(".")
    nodes = [OmegaConf.select(config, parent) if parent else config for config in configs]
    return any(isinstance(node, DictConfig) and last in node for node in nodes)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_in_the_prose_exist(page, configs):
    unknown = [f"{key}={value}" for key, value in OPTION.findall(prose(page)) if not is_option(key, value, configs)]
    assert not unknown


@pytest.mark.parametrize("option", ["init=RUN", "schedule.lerning_rate=1", "data=nonsense", "trainer.devises=2"])
def test_an_option_that_does_not_exist_is_found(option, configs):
    assert not is_option(*option.split("="), configs)


def test_the_groups_are_listed_with_all_their_choices():
    text = (ROOT / "docs" / "configuration.md").read_text()
    for group in ("task", "encoder", "decoder", "renderer", "data", "schedule", "trainer", "callbacks"):
        (line,) = re.findall(rf"^\| `{group}` \| (.*) \|$", text, re.MULTILINE)
        shipped = {path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_")}
        assert set(re.findall(r"`(\w+)`", line)) == shipped, group


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page):
    assert {language for language, _ in blocks(page)} <= {"bash", "python", "text", "yaml"} | (
        {""} if page.parent.name == "data" else set()  # a tree of folders
    )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_configs_are_quoted_as_they_are(page):
    shipped = {path.read_text() for path in CONF.rglob("*.yaml")}
    assert [text for language, text in blocks(page) if language == "yaml" and text not in shipped] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "data" / "README.md"], ids=name)
def test_links_lead_somewhere(page):
    """`mkdocs build --strict` checks those of the other pages."""
    links = [link for link in LINK.findall(prose(page)) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(language == "python" for language, _ in blocks(page))], ids=name
)
def test_examples_run(page, place, environment):
    """All Python blocks of a page, one after the other."""
    code = "\n".join(text for language, text in blocks(page) if language == "python")
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    """What `make docs` does, with this environment's mkdocs."""
    pytest.importorskip("material", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("index.html")}
    assert Path("api/model/index.html") in pages
    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
