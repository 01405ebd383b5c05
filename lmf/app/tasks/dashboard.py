"""Task ``dashboard``: creates or updates a W&B workspace and a report."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import lmf
from lmf.app.tasks.options import items
from lmf.errors import UserError, needed, one_line
from lmf.io.files import write_text

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Create or update the workspace and the report with the title ``config.title``, and log where they are.

    The same title always means the same workspace and the same report, so the command may be repeated. Panels are
    replaced; the filters and settings of the workspace, which people change in the browser, stay.

    Raises:
        UserError: if nobody is logged in, the server cannot be reached, or it refuses.
    """
    with needed("dashboard"):
        import requests
        import wandb

        from lmf.app import dashboard
    content = dashboard.Content(*(items(key, config[key]) for key in ("sets", "scales", "parameters")))
    output = Path(config.paths.output)
    try:
        api = wandb.Api()
        entity, project = str(config.entity or api.default_entity), str(config.project)
        api.create_project(project, entity)  # does nothing if it exists
        workspace = save_workspace(entity, project, config.title, dashboard.workspace_sections(content))
        blocks = dashboard.report_blocks(content, entity, project, lmf.list_models())
        report = save_report(api, entity, project, config.title, blocks)
    except (wandb.Error, requests.RequestException) as error:
        raise UserError(
            f"W&B refused ({one_line(error)}): log in with `wandb login`, and check entity and project"
        ) from error
    output.mkdir(parents=True, exist_ok=True)
    for name, saved in (("workspace", workspace), ("report", report)):
        definition = saved._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1)
        write_text(output / f"{name}.json", definition + "\n")
    log.info(f"workspace: {workspace.url}")
    log.info(f"report: {report.url}")


def save_workspace(entity: str, project: str, title: str, sections: list[Any]) -> Any:
    """Create the workspace, or replace its sections if it exists. Its address follows from its title."""
    import wandb_workspaces.workspaces as ws

    slug = hashlib.sha256(title.encode()).hexdigest()[:11]
    try:
        workspace = ws.Workspace.from_url(f"https://wandb.ai/{entity}/{project}?nw={slug}")
        workspace.sections = sections
    except ValueError as error:
        if "not found" not in str(error):  # the package has no class for this
            raise
        workspace = ws.Workspace(entity=entity, project=project, name=title, sections=sections)
        workspace._internal_name = f"nw-{slug}-v"
    return workspace.save()


def save_report(api: Any, entity: str, project: str, title: str, blocks: list[Any]) -> Any:
    """Create the report, or replace its blocks if the project has one with this title."""
    import wandb_workspaces.reports.v2 as wr

    known = [report for report in api.reports(f"{entity}/{project}") if report.display_name == title]
    report = wr.Report.from_url(known[0].url) if known else wr.Report(entity=entity, project=project, title=title)
    report.description = "Models, quality and cost. Written by lmf task=dashboard; changes here are replaced."
    report.width = "fluid"
    report.blocks = blocks
    return report.save()
