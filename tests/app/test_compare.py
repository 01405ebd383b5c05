"""Task ``compare``: models on test sets and on pictures, tables and figures in the run folder."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from lmf.app import pipeline
from lmf.app.tasks.compare import specs
from lmf.errors import UserError


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("a (1)", "b"):
        noise = Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8))
        noise.resize((54, 48), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_files_of_a_comparison(compose, photos, tmp_path, capsys):
    models = "[bicubic,{model:lm_liif_edsr,label:ours},{model:lm_liif_edsr,budget:0.9}]"
    options = [
        f"task.models={models}",
        f"input={photos}",
        "data.scales=[2,6]",
        "trainer.accelerator=cpu",
        "task.crop=16",
    ]
    pipeline.run(compose("task=compare", *options))
    output = tmp_path / "run"
    table = rows(output / "compare.csv")
    labels = ["bicubic", "ours", "lm_liif_edsr, budget 0.9"]
    assert [(row["set"], row["scale"], row["model"]) for row in table] == [
        ("photos", scale, label) for scale in ("2.0", "6.0") for label in labels
    ]
    assert {row["pictures"] for row in table} == {"2"}
    shares = [row["rendered_share"] for row in table]
    assert shares[:2] == ["", ""]  # of dense rendering
    assert float(shares[2]) == 1  # CMSR renders densely up to x4
    assert 0 < float(shares[5]) <= 1
    assert len(rows(output / "pictures.csv")) == 2 * 2 * 3
    assert json.loads((output / "compare.json").read_text())[0]["model"] == "bicubic"
    assert "**" in (output / "compare.md").read_text()
    assert r"\textbf" in (output / "compare.tex").read_text()
    figures = sorted(path.name for path in (output / "figures").iterdir())
    assert [name.rpartition(".")[2] for name in figures] == ["pdf", "png"] * 2  # one picture per scale
    assert "ours" in capsys.readouterr().out


def test_one_picture_at_a_given_crop(compose, photos, tmp_path):
    picture = photos / "a (1).png"
    pipeline.run(compose("task=compare", "task.models=[bicubic]", f"input='{picture}'", "data.scales=[2]",
                         "task.corner=[3,4]", "task.crop=16", "trainer.accelerator=cpu"))  # fmt: skip
    assert (tmp_path / "run" / "figures" / "a (1)_x2_a (1).png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["task.models=bicubic"], "task.models must be a list"),
        (["task.models=[]"], "task.models must be a list"),
        (["task.models=[{label:a}]"], "names no model"),
        (["task.models=[{model:bicubic,lable:a}]"], "unknown lable; the keys are model, label"),
        (["task.models=[{model:bicubic,lable:a}]"], "budget; did you mean label?"),
        (["task.models=[lm_lif]"], "lm_lif: no such checkpoint"),
        (["task.models=[{model:bicubic,budget:0.3}]"], "bicubic interpolation has no CMSR"),
        (["task.models=[bicubic,bicubic]"], "two models are called bicubic"),
        (["task.models=[bicubic]", "task.metrics=[fid]"], "must be some of lpips, dists, got fid"),
        (["task.models=[bicubic]", "task.metrics=[lpisp]"], "got lpisp; did you mean lpips?"),
        (["task.models=[bicubic]", "task.crop=2"], "crop must be"),
        (["task.models=[bicubic]", "task.metrics=lpips"], "task.metrics must be a list, such as [lpips]"),
        (["task.models=[{model:bicubic,self_ensemble:maybe}]"], "self_ensemble of bicubic must be true or false"),
        (["task.models=[bicubic]", "input=nowhere"], "input=nowhere: no such picture or folder"),
    ],
)
def test_errors_come_before_any_work(compose, tmp_path, caplog, options, message):
    with pytest.raises(SystemExit):
        pipeline.run(compose("task=compare", "trainer.accelerator=cpu", "data.crop=48", "data.limit=1", *options))
    assert message in caplog.text
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_specs():
    assert specs(["bicubic", {"model": "a", "label": "b"}]) == [{"model": "bicubic"}, {"model": "a", "label": "b"}]
    with pytest.raises(UserError):
        specs(None)
