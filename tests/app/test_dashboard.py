"""The real client of W&B builds the workspace and the report on a stand-in server."""

import json

import pytest

import lmf
from lmf.app import pipeline

pytest.importorskip("wandb_workspaces", reason="needs the extra dashboard")

FEW = ("task=dashboard", "sets=[set5]", "scales=[4]", "parameters=[schedule.optimizer.lr,seed]", "entity=team")


def texts(node) -> list[str]:
    """All strings in a JSON value."""
    if isinstance(node, str):
        return [node]
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [text for part in parts for text in texts(part)]


def views(server, kind):
    return [view for view in server.views.values() if view["type"] == kind]


def sections(view):
    bank = json.loads(view["spec"])["section"]["panelBankConfig"]
    return {section["name"]: texts(section["panels"]) for section in bank["sections"]}


def test_the_command_may_be_repeated(compose, wandb_server, tmp_path, caplog):
    caplog.set_level("INFO")
    pipeline.run(compose(*FEW, output=tmp_path / "first"))
    first = json.loads(json.dumps(wandb_server.views))
    pipeline.run(compose(*FEW, "scales=[4,8]", output=tmp_path / "second"))
    assert [sorted(view["type"] for view in found.values()) for found in (first, wandb_server.views)] == [
        ["project-view", "runs"]
    ] * 2
    assert first.keys() == wandb_server.views.keys()
    assert wandb_server.projects == {"lmf"}
    (workspace,) = views(wandb_server, "project-view")
    shown = sections(workspace)
    assert list(shown) == ["Quality", "Cost by stage", "CMSR", "Sweeps", "Pictures", "Training health"]
    assert "summary_metrics.test/set5_x8/psnr" in shown["Quality"]
    assert "summary_metrics.test/set5_x8/bicubic_psnr" in shown["Quality"]
    assert "summary_metrics.cost/x8/render_macs" in shown["Cost by stage"]
    assert {"summary:test/set5_x8/rendered_share", "summary:test/set5_x8/render_s"} <= set(shown["CMSR"])
    # Flat names, as the runs have them: W&B keeps {"value": ...} below the whole name.
    assert {"config:schedule.optimizer.lr.value", "config:seed.value", "summary:val/psnr.max"} <= set(shown["Sweeps"])
    assert "pictures/set5_x4" in shown["Pictures"]
    assert {"train/loss", "train/lr", "train/grad_norm", "train/images_s", "memory/gpu_gib"} <= set(
        shown["Training health"]
    )
    (report,) = views(wandb_server, "runs")
    told = "\n".join(texts(json.loads(report["spec"])))
    for name, card in lmf.list_models().items():
        assert name in told
        assert f"{card['results']['set5_x4']['psnr']:.2f}" in told
    assert "summary_metrics.test/set5_x4/psnr" in told
    logged = caplog.text
    assert f"{wandb_server.url}/team/lmf?nw=" in logged
    assert f"{wandb_server.url}/team/lmf/reports/lmf--" in logged
    assert json.loads((tmp_path / "second" / "workspace.json").read_text())["section"]["panelBankConfig"]["sections"]
    assert json.loads((tmp_path / "second" / "report.json").read_text())["blocks"]


def test_settings_that_people_changed_stay(compose, wandb_server, tmp_path):
    pipeline.run(compose(*FEW, output=tmp_path / "first"))
    (workspace,) = views(wandb_server, "project-view")
    spec = json.loads(workspace["spec"])
    spec["section"]["settings"] |= {"maxRuns": 25}
    workspace["spec"] = json.dumps(spec)
    pipeline.run(compose(*FEW, output=tmp_path / "second"))
    assert json.loads(workspace["spec"])["section"]["settings"]["maxRuns"] == 25


def test_another_title_is_another_workspace(compose, wandb_server, tmp_path):
    for title in ("one", "two"):
        pipeline.run(compose(*FEW, f"title={title}", output=tmp_path / title))
    assert sorted(view["displayName"] for view in wandb_server.views.values()) == ["one", "one", "two", "two"]


def test_without_a_key_it_says_what_to_do(compose, wandb_server, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(SystemExit):
        pipeline.run(compose(*FEW))
    assert "wandb login" in caplog.text
    assert not wandb_server.views


def test_lists_are_lists(compose, caplog):
    with pytest.raises(SystemExit):
        pipeline.run(compose(*FEW, "sets=set5"))
    assert "sets must be a list, such as [set5]" in caplog.text
