"""Values of the wrong type are refused before any work, whichever option has them."""

import pytest
from omegaconf import OmegaConf

from lmf.app import pipeline
from lmf.app.tasks.options import flag, flags, items
from lmf.errors import UserError

EXPORT = ("task=export", "ckpt_path=lm_liif_edsr", "output=model.safetensors")
UPSCALE = ("task=upscale", "input=a.png", "scale=2")


@pytest.mark.parametrize("value", ["maybe", 1, None, "true", [True]])
def test_flags_are_not_other_values(value):
    with pytest.raises(UserError, match="half must be true or false, got"):
        flag("half", value)


def test_values():
    config = OmegaConf.create({"some": [True, False], "names": ["a", 2]})
    assert flag("half", False) is False
    assert flags("some", config.some) == [True, False]
    assert flags("some", True) == [True]
    assert items("names", config.names) == ["a", 2]


@pytest.mark.parametrize("value", ["abc", 3, None, {"a": 1}])
def test_lists_are_not_other_values(value):
    with pytest.raises(UserError, match="names must be a list, such as"):
        items("names", value)


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        (EXPORT, "half=maybe", "half must be true or false, got maybe"),
        (EXPORT, "split=maybe", "split must be true or false"),
        (EXPORT, "results=results.json", "results must be a list, such as [results.json]"),
        (UPSCALE, "overwrite=maybe", "overwrite must be true or false"),
        (("task=test", "ckpt_path=lm_liif_edsr"), "save_images=maybe", "save_images must be true or false"),
        (("task=benchmark", "task.models=[bicubic]"), "task.time=maybe", "task.time must be true or false"),
        (("task=benchmark", "task.models=[bicubic]"), "task.scales=4", "task.scales must be a list, such as [4]"),
        (("task=benchmark",), "task.models=liif", "task.models must be a list, such as [liif]"),
        (("task=calibrate", "ckpt_path=lm_lte_edsr", "output=a.cmsr.yaml"), "reduce=maybe", "reduce must be true or"),
        (("task=fit", "experiment=lmf_edsr"), "task.test=maybe", "task.test must be true or false"),
    ],
)
def test_tasks_refuse_them_in_one_line(compose, tmp_path, monkeypatch, caplog, command, option, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        pipeline.run(compose(*command, option, "trainer.accelerator=cpu"))
    assert message in caplog.text
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("option", ["models=lm_liif_edsr", "limits.hosts=example.org"])
def test_the_page_takes_lists(compose, caplog, option):
    pytest.importorskip("uvicorn")
    with pytest.raises(SystemExit):
        pipeline.run(compose("task=zoom", option, "browser=false", "trainer.accelerator=cpu"))
    assert f"{option.partition('=')[0]} must be a list" in caplog.text
