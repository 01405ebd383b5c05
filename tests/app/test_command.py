"""Tests of the command `lmf`: subcommands, file names on the command line, and error messages."""

import errno
import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

import lmf
from lmf.app import cli
from lmf.app.overrides import quote, quoted, readable
from lmf.errors import MissingExtra, UserError, needed
from lmf.inference import files
from lmf.renderers import Dense

from ..conftest import ROOT, TINY

NAMES = [
    "photo (1).png", "Grüße.png", "図.png", "a=b.png", "a,b.png", "a#b.png", "[a].png", "{a}.png", "it's.png",
    "it\\'s.png", 'say "a".png', " a.png ", "a;b&c!.png", "~/a.png", "C:\\x\\", "C:\\ü\\", "2024", "1e5", "true",
    "plain.png", "two words.png", "**/*.png", "a\nb.png", "'a.png", "$a$.png", "",
]  # fmt: skip


def value(override):
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["input", "output", "ckpt_path", "data.root", "+data.val_root", "paths.runs"])
def test_hydra_reads_every_name_as_it_is(name, key):
    assert value(readable(f"{key}={name}", multirun=False)) == name
    assert quoted(quoted([f"{key}={name}"])) == quoted([f"{key}={name}"])


@pytest.mark.parametrize("name", NAMES)
def test_quote(name):
    assert value(f"key={quote(name)}") == name


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize(
    "override",
    ["input='photo (1).png'", 'input="a,b"', "input=[a,b]", "input=null", "input=${paths.data}/b", "decoder.depth=4",
     "+decoder.side=4", "~logger.wandb", "task.sizes=[[4,5]]", "input=glob(*)", "launcher=joblib", "name=1,2"],
)  # fmt: skip
def test_what_hydra_reads_well_stays(override, multirun):
    assert readable(override, multirun) == override


def test_paths_of_a_multirun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert readable("input=a.png,b.png", multirun=True) == "input=a.png,b.png"
    assert readable("input=a (1).png,ü.png", multirun=True) == "input='a (1).png','ü.png'"
    (tmp_path / "a,b.png").touch()
    assert readable("input=a,b.png", multirun=True) == "input='a,b.png'"


def test_options_may_stand_anywhere():
    assert quoted(["a=1", "-m", "b=2,3", "--config-dir", "x"]) == ["a=1", "b=2,3", "-m", "--config-dir", "x"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=a (b", "cannot read name=a \\(b: quote .* `lmf upscale FILE`"),
        ("input=[a (b,c]", "cannot read input="),
        ("experimen", "experimen: neither a command nor KEY=VALUE"),
        ("pyproject.toml", "lmf upscale 'pyproject.toml' --scale 4"),
    ],
)
def test_what_is_no_override_is_refused_in_one_line(override, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message) as caught:
        readable(override, multirun=False)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def model():
    return lmf.load("lm_liif_edsr")


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Create two files and a folder in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "folder").mkdir()
    for i, name in enumerate(("photo (1).png", "a=b,#ü 図 [1].png", "folder/c.png")):
        Image.fromarray(rng.integers(0, 256, (7 + i, 9, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_upscale(pictures, model):
    cli.main(["upscale", "photo (1).png", "--scale", "2.5", "-o", "out.png"])
    made = np.asarray(Image.open("out.png")).astype(int)
    expected = model.upscale(np.asarray(Image.open("photo (1).png")), scale=2.5)
    assert made.shape == (18, 22, 3)
    assert np.abs(made - expected).max() <= 1


@pytest.fixture
def compared(pictures, monkeypatch):
    """Return a function that runs ``lmf upscale`` and returns the models that it ran."""
    models = []
    run = files.run
    monkeypatch.setattr(
        files, "run", lambda model, *args, **kwargs: [models.append(model), run(model, *args, **kwargs)][1]
    )
    return lambda *options: [cli.main(["upscale", "photo (1).png", "-s", "8", *options]), models.pop()][1]


def test_upscale_renders_coarsely_if_asked(compared):
    dense = compared("-o", "dense.png")
    exact, cheap = (
        compared("-o", "exact.png", "--cmsr-precision-db", "50"),
        compared("-o", "a.png", "--cmsr-budget", "0.4"),
    )
    assert isinstance(dense.renderer, Dense)
    assert exact.renderer.settings["precision_db"] == 50
    assert cheap.renderer.settings["budget"] == 0.4
    read = [np.asarray(Image.open(name)).astype(float) for name in ("dense.png", "exact.png")]
    assert ((read[0] - read[1]) ** 2).mean() <= 255**2 * 10**-5


def test_upscale_needs_tables_to_render_coarsely(pictures, model, capsys):
    lmf.save(model, "own.safetensors")
    _, text = fails(capsys, "upscale", "photo (1).png", "-s", "8", "-m", "own.safetensors", "--cmsr-budget", "0.4")
    assert "own.cmsr.yaml: no such tables" in text


def test_upscale_writes_as_it_is_told(pictures):
    cli.main(
        ["upscale", "photo (1).png", "-s", "2", "-o", "a.jpg", "--subsampling", "4:2:0", "--precision", "bf16-mixed"]
    )
    with Image.open("a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]


def test_defaults_are_the_same_everywhere():
    function = {name: p.default for name, p in inspect.signature(lmf.inference.upscale_files).parameters.items()}
    config = yaml.safe_load((ROOT / "conf/task/upscale.yaml").read_text())
    options = vars(cli.upscale_parser().parse_args(["a.png", "-s", "2"]))
    for name in ("output", "quality", "subsampling", "max_pixels", "tile", "overwrite"):
        assert function[name] == config[name] == options[name], name
    assert options["model"] == config["task"]["pretrained"]
    assert options["precision"] == yaml.safe_load((ROOT / "conf/config.yaml").read_text())["precision"]


@pytest.mark.parametrize("cache", ["empty", "no folder/cache"])
def test_without_a_compiler_one_line_says_so(pictures, tmp_path, cache):
    """An empty folder of kernels and no compiler, or one that cannot be written."""
    (tmp_path / "no folder").touch()
    environment = {**os.environ, "LMF_CACHE": str(tmp_path / cache), "PYTHONPATH": str(ROOT)}
    if cache == "empty":
        environment |= {"CXX": "no-such-compiler"}
    command = [sys.executable, "-m", "lmf", "upscale", "photo (1).png", "--scale=2", "--output=large.png"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    warned = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]
    assert len(warned) == 1
    assert warned[0].startswith("WARNING: rendering and convolutions fall back to plain torch")


def test_a_bug_keeps_its_traceback(pictures, monkeypatch):
    monkeypatch.setattr(files, "run", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["upscale", "photo (1).png", "--scale", "2"])


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), torch.OutOfMemoryError("of memory")]
)
def test_a_full_disk_or_memory_is_one_line(pictures, monkeypatch, capsys, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(files, "run", fail)
    assert fails(capsys, "upscale", "photo (1).png", "--scale", "2") == (1, f"ERROR: {error}\n")


def test_upscale_takes_files_folders_and_globs(pictures):
    cli.main(["upscale", "a=b,#ü 図 [1].png", "folder", "photo*.png", "-s", "2", "--format", "jpg"])
    made = sorted(str(path.relative_to(pictures / "upscaled")) for path in (pictures / "upscaled").rglob("*.*"))
    assert made == ["a=b,#ü 図 [1]_x2.jpg", "c_x2.jpg", "photo (1)_x2.jpg"]


def test_size_is_width_by_height(pictures):
    cli.main(["upscale", "photo (1).png", "--size", "30x20", "-o", "out.png"])
    assert Image.open("out.png").size == (30, 20)


def fails(capsys, *arguments):
    """Return the exit status and the message of a command that must fail."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    message = capsys.readouterr().err
    assert message.startswith("ERROR: ")
    assert message.count("\n") == 1
    return caught.value.code, message


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere.png", "--scale", "2"], 1, "nowhere.png"),
        (["photo (1).png", "--scale", "-1"], 1, "positive"),
        (["photo (1).png", "--scale", "2", "--model", "nothing"], 1, "nothing"),
        (["photo (1).png", "--scale", "2", "--format", "gif"], 1, "gif"),
        (["photo (1).png", "--scale", "2", "--tile", "0"], 1, "tile must be a positive whole number, got 0"),
        (["photo (1).png", "--scale", "2", "--device", "cuda:99"], 1, "--device cuda:99"),
        (["photo (1).png", "folder/../photo (1).png", "--scale", "2"], 1, "would both become"),
        (
            ["photo (1).png", "folder", "--scale", "2", "-o", "one.png"],
            1,
            "the output one.png is one file, but there are 2 inputs; give a folder",
        ),
        (["photo (1).png", "--scale", "2", "-o", "photo (1).png", "--overwrite"], 1, "would replace its input"),
        (["", "--scale", "2"], 1, "the input is an empty name"),
        (["photo (1).png", "--scale", "2", "--quality", "101"], 1, "quality"),
        (["photo (1).png", "--scale", "2", "--subsampling", "4:1:1"], 1, "subsampling"),
        (["photo (1).png", "--scale", "2", "--max-pixels", "0"], 1, "max_pixels"),
        (["photo (1).png", "--scale", "2", "--precision", "8", "--model", "nothing"], 1, "precision must be one of"),
        (["photo (1).png", "--scale", "2", "--cmsr-budget", "2"], 1, "budget must be a share"),
        (["photo (1).png", "--scale", "2", "--cmsr-budget", "0.5", "--cmsr-precision-db", "50"], 2, "not allowed with"),
        (["x" * 300 + ".png", "--scale", "2"], 1, "File name too long"),
        (["photo (1).png", "--scale", "2", "-o", "y" * 300], 1, "File name too long"),
        (["photo (1).png"], 2, "--scale"),
        (["photo (1).png", "--scale", "2", "--size", "4x4"], 2, "not allowed with"),
        (["photo (1).png", "--size", "30"], 2, "WIDTHxHEIGHT"),
        (["photo (1).png", "--size", "0x30"], 2, "WIDTHxHEIGHT"),
        (["--scale", "2"], 2, "INPUT"),
    ],
)
def test_upscale_names_mistakes_in_one_line(pictures, capsys, arguments, status, message):
    code, text = fails(capsys, "upscale", *arguments)
    assert code == status
    assert message in text
    assert not (pictures / "upscaled").exists()
    assert not (pictures / "one.png").exists()


def test_a_picture_that_fails_is_named_and_the_others_go_on(pictures, capsys):
    (pictures / "bad.png").write_bytes(b"no picture")
    code, message = fails(capsys, "upscale", "bad.png", "photo (1).png", "--scale", "2")
    assert (code, message) == (1, "ERROR: 1 of 2 pictures failed; the errors are listed above\n")
    assert (pictures / "upscaled" / "photo (1)_x2.png").is_file()


def test_models_with_all_facts(capsys, monkeypatch):
    """Size, cost, PSNR, what it was trained on and what it is bad at, within 80 columns; cards may lack any of them."""
    cards = {
        "lm_liif_edsr_plus": {
            "parameters": 2_486_067,
            "bytes": 4_972_000,
            "data": "photographs",
            "limits": "no noise",
            "licence": "Apache-2.0",
            "costs": {"lr_size": [90, 160], "gmacs": {"x4": 27.4}},
            "results": {f"{name}_x4": {"psnr": 31.234} for name in ("set5", "set14", "b100", "graphics")},
        },
        "old": {"parameters": 10, "bytes": 2_000},
    }
    monkeypatch.setattr(lmf, "list_models", lambda: cards)
    monkeypatch.setenv("COLUMNS", "80")
    cli.main(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    (row,) = [line.split() for line in lines if line.strip().startswith("lm_liif_edsr_plus")]
    assert row == ["lm_liif_edsr_plus", "2,486,067", "5.0", "27.4", *["31.23"] * 4]
    (row,) = [line.split() for line in lines if line.strip().startswith("old")]
    assert row == ["old", "10", "0.0"]
    for fact in ("trained on (lm_liif_edsr_plus): photographs", "limits (lm_liif_edsr_plus): no noise"):
        assert fact in lines


def test_models(capsys):
    cli.main(["models"])
    out = capsys.readouterr().out
    for name, card in lmf.list_models().items():
        assert name in out
        assert f"{card['results']['set5_x4']['psnr']:.2f}" in out
        assert card["licence"].split(";")[0] in out


def run(program, *arguments, check=True):
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def test_run_py_and_the_module_are_the_command():
    for program in ([str(ROOT / "run.py")], ["-m", "lmf"]):
        assert run(program, "--version").stdout == f"lmf {lmf.__version__}\n"
        text = run(program).stdout
        assert "lmf upscale photo.jpg --scale 3.7" in text
        assert "lmf task=upscale input=photo.jpg scale=3.7" in text


WITHOUT_EXTRAS = """
import sys
for name in ("lightning", "hydra", "omegaconf", "torchmetrics", "kornia", "wandb", "matplotlib", "skimage"):
    sys.modules[name] = None  # as if not installed
from lmf.app.cli import main
main(sys.argv[1:])
"""


def test_without_extras_pictures_are_enlarged(pictures):
    run(["-c", WITHOUT_EXTRAS], "upscale", "photo (1).png", "--scale", "2")
    assert (pictures / "upscaled" / "photo (1)_x2.png").is_file()


def test_without_extras_one_line_says_what_to_install(pictures):
    done = run(["-c", WITHOUT_EXTRAS], "experiment=lmf_edsr", check=False)
    assert (done.returncode, done.stderr) == (1, "ERROR: hydra is not installed: pip install 'lmf[train]'\n")
    for module in ("lmf.data", "lmf.metrics", "lmf.training", "lmf.benchmark.plots", "lmf.benchmark.throughput"):
        code = WITHOUT_EXTRAS.replace("from lmf.app.cli import main\nmain(sys.argv[1:])", f"import {module}")
        done = run(["-c", code], check=False)
        assert done.stderr.splitlines()[-1].endswith("is not installed: pip install 'lmf[train]'"), module


def test_a_fault_in_this_package_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError) as caught, needed("train"):
        import lmf.nothing  # noqa: F401
    assert not isinstance(caught.value, MissingExtra)


def test_a_launcher_that_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_joblib_launcher", None)
    code, message = fails(capsys, "-m", "launcher=joblib", "seed=0,1")
    assert code == 1
    assert message.endswith("is not installed: pip install 'lmf[sweep]'\n")


def test_the_configs_of_a_checkout():
    assert cli.conf_folder() == ROOT / "conf"


@pytest.mark.slow
def test_names_through_hydra(pictures):
    for name in ("photo (1).png", "a=b,#ü 図 [1].png"):
        run([str(ROOT / "run.py")], "task=upscale", f"input={name}", "scale=2", "output=o (ü)")
    assert len(list((pictures / "o (ü)").iterdir())) == 2


@pytest.mark.ddp
@pytest.mark.parametrize("launcher", [None, "joblib", "submitit_local"])
def test_ddp_from_the_module_and_in_workers_of_a_launcher(tmp_path, monkeypatch, launcher):
    monkeypatch.chdir(tmp_path)
    options = [*TINY, "experiment=lmf_edsr", "trainer=ddp", "trainer.devices=2", "schedule.epochs=1"]
    if launcher is None:
        run(["-m", "lmf"], *options, "hydra.run.dir=runs/a (ü)")
    else:
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
        run([str(ROOT / "run.py")], "-m", *options, f"launcher={launcher}", "seed=0,1")
    assert len(list(tmp_path.rglob("last.ckpt"))) == (1 if launcher is None else 2)
