import os

from lmf.app import runs


def make_run(folder, age):
    last = folder / runs.LAST
    last.parent.mkdir(parents=True)
    last.write_bytes(b"")
    os.utime(last, (1000 - age, 1000 - age))
    return folder


def test_new_folders_never_coincide(tmp_path):
    made = set()
    for _ in range(5):
        runs._new.cache_clear()  # as five processes would
        made.add(runs.run_dir(str(tmp_path), "x", None))
    assert len(made) == 5
    assert len(list((tmp_path / "x").iterdir())) == 5


def test_one_process_keeps_its_folder(tmp_path):
    runs._new.cache_clear()
    assert runs.run_dir(str(tmp_path), "x", None) == runs.run_dir(str(tmp_path), "x", None)


def test_last_is_the_newest_checkpoint(tmp_path):
    make_run(tmp_path / "x" / "b", age=100)
    newest = make_run(tmp_path / "x" / "a", age=1)
    (tmp_path / "x" / "z").mkdir()  # died before its first checkpoint
    assert runs.run_dir(str(tmp_path), "x", "last") == str(newest)
    assert runs.last_run(tmp_path / "y") is None


def test_a_run_folder_is_continued_in_place(tmp_path):
    folder = make_run(tmp_path / "x" / "a", age=1)
    assert runs.run_dir(str(tmp_path), "other", str(folder)) == str(folder)


def test_caches_follow_the_environment(compose, monkeypatch):
    monkeypatch.delenv("LMF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    config = compose()
    assert config.paths.cache == config.data.module.files.cache == "/xdg/lmf"
    monkeypatch.setenv("LMF_CACHE", "/own")
    assert compose().paths.cache == "/own"
    monkeypatch.setenv("LMF_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert compose().paths.cache == "/home/someone/.cache/lmf"


def test_a_checkpoint_file_starts_a_new_run(tmp_path):
    runs._new.cache_clear()
    folder = make_run(tmp_path / "x" / "a", age=1)
    assert runs.run_dir(str(tmp_path), "x", str(folder / runs.LAST)) != str(folder)


def test_started_ranks_use_the_folder_they_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv(runs.RUN_DIR, "/somewhere")
    assert runs.run_dir(str(tmp_path), "x", None) == "/somewhere"


def test_ranks_of_an_external_launcher_agree(tmp_path, monkeypatch):
    runs._new.cache_clear()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    first = runs.run_dir(str(tmp_path), "x", None)
    runs._new.cache_clear()
    assert runs.run_dir(str(tmp_path), "x", None) == first
