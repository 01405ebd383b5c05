"""A small stand-in for the W&B server on loopback. It answers the real client and records what the client sends."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

ENTITY = "team"
TIME = "2026-01-01T00:00:00"
USER = {
    "id": "user",
    "entity": ENTITY,
    "username": ENTITY,
    "name": ENTITY,
    "email": "a@b.c",
    "photoUrl": None,
    "admin": False,
    "flags": "{}",
    "deletedAt": None,
    "teams": {"edges": []},
    "apiKeys": {"edges": []},
}


class WandbServer:
    """Runs, views, artifacts and sweeps as a W&B server would keep them.

    Attributes:
        requests: (operation, variables) of every GraphQL request.
        runs: by id, the last variables that created or updated the run.
        history: by run id, the logged rows.
        summary: by run id, the last summary.
        files: by path, the uploaded bytes.
        artifacts: created artifacts, in order, with their aliases.
        views: by id, workspaces and reports.
        sweep_runs: arguments of the runs that a sweep hands out to its agent.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.summary: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.views: dict[str, dict[str, Any]] = {}
        self.projects: set[str] = set()
        self.sweeps: list[dict[str, Any]] = []
        self.sweep_runs: list[dict[str, Any]] = []
        self.url = ""
        self.stop: Callable[[], None] = lambda: None  # goes away, as a server that breaks down

    def environment(self) -> dict[str, str]:
        """Variables that lead a client here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0" * 40, "WANDB_ENTITY": ENTITY}

    def config(self, run: str) -> dict[str, Any]:
        """The config of a run, without what W&B adds."""
        sent = json.loads(self.runs[run]["config"])
        return {key: item["value"] for key, item in sent.items() if key != "_wandb"}

    def operations(self) -> list[str]:
        return [operation for operation, _ in self.requests]

    def graphql(self, operation: str, variables: dict[str, Any], query: str) -> dict[str, Any]:
        answer = getattr(self, f"on_{operation[:1].lower()}{operation[1:]}", None)
        return answer(variables, query) if answer else {}

    # Runs

    def on_viewer(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        return {"viewer": USER}

    on_queryViewer = on_getDefaultEntity = on_getViewer = on_viewer

    def on_upsertBucket(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        name = variables["name"]
        new = name not in self.runs
        given = {key: value for key, value in variables.items() if value is not None}
        self.runs.setdefault(name, {}).update(given)
        run = self.runs[name]
        project = {"id": "project", "name": run.get("project"), "entity": {"id": "entity", "name": ENTITY}}
        bucket = {"id": f"id-{name}", "name": name, "displayName": run.get("displayName"), "description": None}
        bucket |= {"config": run.get("config"), "sweepName": run.get("sweep"), "project": project}
        bucket |= {"historyLineCount": len(self.history.get(name, []))}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_runResumeStatus(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        name = variables["name"]
        model = {"id": "project", "name": variables["project"], "entity": {"id": "entity", "name": ENTITY}}
        if name not in self.runs:
            return {"model": {**model, "bucket": None}}
        rows = self.history.get(name, [])
        bucket = {
            "name": name,
            "id": f"id-{name}",
            "summaryMetrics": json.dumps(self.summary.get(name, {})),
            "displayName": self.runs[name].get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]",
            "config": self.runs[name].get("config", "{}"),
            "tags": self.runs[name].get("tags", []),
            "wandbConfig": json.dumps({"t": 1}),  # without it a run counts as never started
        }
        return {"model": {**model, "bucket": bucket}}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                rows = self.history.setdefault(run, [])
                rows[part["offset"] :] = lines
            elif name == "wandb-summary.json":
                self.summary[run] = lines[-1]

    def on_createRunFiles(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    # Artifacts

    def on_artifactType(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def on_createArtifact(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        sent = variables.get("input", variables)
        number = len(self.artifacts)
        self.artifacts.append(sent)
        artifact = {"id": f"artifact-{number}", "digest": sent["digest"], "state": "PENDING"}
        artifact |= {"artifactSequence": {"id": "sequence", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def on_createArtifactManifest(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        sent = variables.get("input", variables)
        file = {"id": "file", "name": "wandb_manifest.json", "displayName": "wandb_manifest.json"}
        file |= {"uploadUrl": f"{self.url}/put/manifest/{sent['artifactID']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}}

    on_updateArtifactManifest = on_createArtifactManifest

    def on_createArtifactFiles(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        specs = variables.get("artifactFiles") or variables["input"]["artifactFiles"]
        nodes = []
        for number, spec in enumerate(specs):
            url = f"{self.url}/put/artifact/{spec['artifactID']}/{spec['name']}"
            node = {"id": f"file-{number}", "name": spec["name"], "displayName": spec["name"], "uploadUrl": url}
            node |= {"uploadHeaders": [], "storagePath": spec["name"], "uploadMultipartUrls": None}
            nodes.append({"node": {**node, "artifact": {"id": spec["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def on_commitArtifact(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        artifact = variables.get("artifactID") or variables["input"]["artifactID"]
        return {"commitArtifact": {"artifact": {"id": artifact, "digest": "digest"}}}

    # Projects, workspaces and reports

    def project(self, name: str) -> dict[str, Any]:
        known = {"id": f"project-{name}", "internalId": "1", "name": name, "entityName": ENTITY, "entity": ENTITY}
        facts = {"createdAt": TIME, "isBenchmark": False, "description": "", "access": "USER_READ", "views": "{}"}
        return {**known, **facts, "user": USER}

    def on_createProject(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        name = variables["input"]["name"]
        new = name not in self.projects
        self.projects.add(name)
        return {"result": {"project": self.project(name), "model": self.project(name), "inserted": new}}

    def on_getProjects(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        nodes = [{"node": self.project(name), "cursor": name} for name in sorted(self.projects)]
        return {"models": {"edges": nodes, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    on_projects = on_getProjects

    def on_projectInternalId(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        name = variables["projectName"]
        return {"project": self.project(name) if name in self.projects else None}

    def on_upsertView(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        identifier = variables.get("id") or encoded(f"View:{len(self.views)}")
        new = identifier not in self.views
        view = self.views.setdefault(identifier, {"id": identifier})
        view.update({key: value for key, value in variables.items() if value is not None})
        view["project"] = self.project(view["projectName"])
        return {"upsertView": {"view": {**view, "updatedAt": TIME}, "inserted": new}}

    on_upsertView2 = on_upsertView

    def on_view(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        found = [view for view in self.views.values() if view["name"] == variables["viewName"]]
        return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}

    def on_projectViews(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        found = [view for view in self.views.values() if view["type"] == "runs"]
        times = {"createdAt": TIME, "updatedAt": TIME}
        extra = {**times, "user": USER, "previewUrl": None, "viewCount": 0}
        nodes = [{"node": {**view, **extra}, "cursor": ""} for view in found]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {**self.project(variables["project"]), "allViews": {"edges": nodes, "pageInfo": page}}}

    def on_specificReport(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        times = {"createdAt": TIME, "updatedAt": TIME}
        return {"view": {**self.views[variables["reportId"]], **times}}

    # Sweeps

    def on_upsertSweep(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        name = f"sweep{len(self.sweeps)}"
        self.sweeps.append({"id": name, "name": name, **{k: v for k, v in variables.items() if v is not None}})
        project = {"id": "project", "name": variables["projectName"], "entity": {"id": "entity", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def on_sweepWithRuns(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        (sweep,) = [sweep for sweep in self.sweeps if sweep["name"] == variables["sweep"]]
        facts = {"state": "RUNNING", "method": "bayes", "createdAt": TIME, "runs": {"edges": []}, "scheduler": None}
        return {"project": {"sweep": {**sweep, **facts}}}

    def on_createAgent(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def on_heartbeat(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        """The next run of the sweep when the last one has ended, then the command to stop."""
        if json.loads(variables["runState"]):
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": "[]"}}
        if self.sweep_runs:
            arguments = {key: {"value": value} for key, value in self.sweep_runs.pop(0).items()}
            command = {"type": "run", "run_id": f"swept{len(self.sweep_runs)}", "args": arguments, "program": "lmf"}
        else:
            command = {"type": "exit"}
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps([command])}}


@contextmanager
def serving() -> Iterator[WandbServer]:
    """Run a server for the block."""
    wandb = WandbServer()
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            with lock:
                sent = json.dumps(self.handle_request(body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def handle_request(self, body: bytes) -> dict[str, Any]:
            if self.path.endswith("/graphql"):
                asked = json.loads(body)
                found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                operation = asked.get("operationName") or (found[1] if found else "")
                variables = asked.get("variables") or {}
                wandb.requests.append((operation, variables))
                return {"data": wandb.graphql(operation, variables, asked["query"])}
            if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                wandb.stream(match[1], json.loads(body))
            elif self.path.startswith("/put/"):
                wandb.files[self.path.removeprefix("/put/")] = body
            return {}

        do_GET = do_POST = do_PUT = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients reset connections when they end
    wandb.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    wandb.stop = stop
    try:
        yield wandb
    finally:
        stop()


def encoded(identifier: str) -> str:
    """A GraphQL id, as the service forms them."""
    return base64.b64encode(identifier.encode()).decode()
