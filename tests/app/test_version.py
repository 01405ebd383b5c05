"""Tests of the version and the commit of the running code."""

import shutil
import subprocess

import pytest

import lmf
from lmf.app import version

from ..conftest import ROOT


def git(folder, *command):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *identity, *command], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path):
    """Return a repository with the package at its top, committed."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "lmf" / "app", folder / "lmf" / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_checkout_has_a_commit(checkout):
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert version.facts(checkout / "lmf") == {"version": lmf.__version__, "commit": commit}
    (checkout / "lmf" / "app" / "runs.py").write_text("")
    assert version.facts(checkout / "lmf") == {"version": lmf.__version__, "commit": commit, "modified": True}


def test_a_new_file_is_a_modification(checkout):
    (checkout / "lmf" / "new.py").write_text("")
    assert version.facts(checkout / "lmf")["modified"] is True


def test_an_environment_inside_another_repository_has_none(checkout, tmp_path):
    packages = checkout / ".venv" / "lib" / "python3.11" / "site-packages"
    shutil.copytree(checkout / "lmf", packages / "lmf")
    assert version.facts(packages / "lmf") == {"version": lmf.__version__}


def test_a_copy_in_another_project_has_none(checkout):
    text = (checkout / "pyproject.toml").read_text()
    (checkout / "pyproject.toml").write_text(text.replace('name = "lmf"', 'name = "theirs"'))
    assert version.facts(checkout / "lmf") == {"version": lmf.__version__}


def test_no_repository_at_all(tmp_path):
    (tmp_path / "lmf").mkdir()
    assert version.facts(tmp_path / "lmf") == {"version": lmf.__version__}


def test_the_fingerprint_changes_with_the_sources(checkout, monkeypatch):
    def now():
        version.fingerprint.cache_clear()
        return version.fingerprint()

    monkeypatch.setattr(version, "PACKAGE", checkout / "lmf")
    before = now()
    assert now() == before
    (checkout / "lmf" / "app" / "notes.md").write_text("no code")
    assert now() == before
    with (checkout / "lmf" / "app" / "runs.py").open("a") as file:
        file.write("# changed")
    assert now() != before
    monkeypatch.undo()
    version.fingerprint.cache_clear()
