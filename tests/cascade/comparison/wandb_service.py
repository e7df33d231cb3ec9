"""A W&B service on this machine: it answers what `wandb.Api` asks, from runs recorded offline.

The queries are those of wandb 0.31.0: its Python half asks for runs, files and reports, its core
for histories, which the service keeps as Parquet files and, of what is not exported yet, as rows.

    python tests/cascade/comparison/wandb_service.py FOLDER -- COMMAND …

runs a command beside a service that has the runs below FOLDER, in `entity/cascade`.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from cascade.comparison.offline import nested, records_of

ENTITY, PROJECT = "entity", "cascade"


@dataclass
class Run:
    """A run as the service has it; the first `exported` rows are in Parquet."""

    identity: str
    name: str
    group: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    files: Path | None
    state: str = "finished"
    exported: int | None = None

    @classmethod
    def recorded(cls, legs: list[Path]) -> "Run":
        """What the service has of a run whose legs were synced one after the other."""
        config, rows, start = {}, [], {}
        for leg in legs:
            for record in records_of(leg):
                if record["type"] == "run":
                    start = record["run"]
                    config |= start.get("config", {}).get("update", {})
                elif record["type"] == "config":
                    config |= record["config"]["update"]
                elif record["type"] == "history":
                    rows.append({**nested(record["history"]["item"]), "_step": len(rows)})
        config.pop("_wandb", None)
        return cls(
            identity=start["run_id"],
            name=start["display_name"],
            group=start["run_group"],
            config=config,
            rows=rows,
            files=legs[-1] / "files",
        )

    def node(self) -> dict[str, Any]:
        """RunFragment."""
        last = max((row["_step"] for row in self.rows), default=-1)
        summary = {k: v for row in self.rows for k, v in row.items()}
        empty = dict.fromkeys(("sweepName", "jobType", "commit", "description", "notes"))
        return {
            **empty,
            "id": f"UnVu{self.identity}",
            "projectId": "7",
            "name": self.identity,
            "displayName": self.name,
            "group": self.group,
            "state": self.state,
            "tags": [],
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z",
            "config": json.dumps({k: {"value": v, "desc": None} for k, v in self.config.items()}),
            "summaryMetrics": json.dumps(summary),
            "systemMetrics": "{}",
            "historyLineCount": len(self.rows),
            "user": {"name": "user", "username": "user"},
            "historyKeys": {"lastStep": last, "keys": {}, "sets": []},
        }


@dataclass
class Service:
    """The runs, and the reports that were saved."""

    runs: list[Run]
    url: str = ""
    reports: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL query and its variables."""
        if "upsertView" in query:
            self.reports.append(variables)
            names = {"name": variables["projectName"], "entityName": variables["entityName"]}
            project = {"id": "7", **names}
            copied = {key: variables[key] for key in ("name", "displayName", "description", "spec")}
            view = {"id": "VmlldzoxMjM0", "type": "runs", "project": project, **copied}
            view |= {"updatedAt": "2026-01-01T00:00:00Z"}
            return {"upsertView": {"view": view, "inserted": True}}
        if "viewer" in query:
            viewer = {"id": "1", "entity": ENTITY, "username": "user", "email": "", "flags": "{}"}
            return {"viewer": viewer | {"admin": False, "teams": {"edges": []}, "name": "user"}}
        if "models(" in query or "projects(" in query.lower():
            edge = {"node": {"id": "7", "name": PROJECT, "entityName": ENTITY}, "cursor": "a"}
            edge["node"] |= {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False}
            edge["node"]["user"] = None
            page = {"endCursor": "a", "hasNextPage": False}
            return {"models": {"edges": [edge], "pageInfo": page}}
        asked = {
            variables.get(f"{key}{end}") for key in ("project", "entity") for end in ("", "Name")
        }
        if asked - {None} != {PROJECT, ENTITY}:
            return {"project": None}
        if "ProjectInternalId" in query:
            return {"project": {"id": "UHJvamVjdDo3", "internalId": "7"}}
        return {"project": self.project(query, variables)}

    def project(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What is asked of the project: its runs by filter and page, or one run's parts."""
        if "runs(filters" in query:
            wanted = json.loads(variables["filters"])
            keys = {"group": "group", "name": "identity"}
            found = [
                run
                for run in self.runs
                if all(getattr(run, keys[key]) == value for key, value in wanted.items())
            ]
            first = int(variables["cursor"] or 0)
            page = found[first : first + 2]  # few, so that the client must ask for more
            edges = [
                {"node": run.node(), "cursor": str(i)}
                for i, run in enumerate(page, start=first + 1)
            ]
            more = first + 2 < len(found)
            info = {"endCursor": str(first + len(page)), "hasNextPage": more}
            counts = {"internalId": "7", "runCount": len(found), "readOnly": False}
            return counts | {"runs": {"edges": edges, "pageInfo": info}}
        name = variables.get("name") or variables.get("runName") or variables.get("run")
        run = next(run for run in self.runs if run.identity == name)
        if "parquetHistory" in query:
            split = len(run.rows) if run.exported is None else run.exported
            urls = [f"{self.url}/parquet/{run.identity}"] if split else []
            return {"run": {"parquetHistory": {"parquetUrls": urls, "liveData": run.rows[split:]}}}
        if "query HistoryPage" in query:
            steps = range(int(variables["minStep"]), int(variables["maxStep"]))
            rows = [json.dumps(row) for row in run.rows if row["_step"] in steps]
            return {"run": {"history": rows[: variables["pageSize"]]}}
        if "files(" in query:
            edges = [self.file(run, path, str(i)) for i, path in enumerate(variables["fileNames"])]
            info = {"endCursor": None, "hasNextPage": False}
            return {
                "internalId": "7",
                "run": {"fileCount": len(edges), "files": {"edges": edges, "pageInfo": info}},
            }
        return {"run": run.node()}

    def file(self, run: Run, path: str, cursor: str) -> dict[str, Any]:
        """A file of a run, and where it can be fetched."""
        url = f"{self.url}/files/{run.identity}/{quote(path)}"
        size = (run.files / path).stat().st_size
        node = {"id": "f", "name": path, "url": url, "directUrl": url, "sizeBytes": size}
        node |= {"mimetype": "video/mp4", "updatedAt": "2026-01-01T00:00:00Z", "md5": ""}
        return {"node": node, "cursor": cursor}

    def blob(self, path: str) -> bytes:
        """The content of one of the service's own URLs."""
        kind, identity, *rest = unquote(path).strip("/").split("/")
        run = next(run for run in self.runs if run.identity == identity)
        if kind == "files":
            return (run.files / "/".join(rest)).read_bytes()
        split = len(run.rows) if run.exported is None else run.exported
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(run.rows[:split], schema=schema(run.rows)), file)
        return file.getvalue()


def schema(rows: list[dict[str, Any]]) -> pa.Schema:
    """The columns of all rows; numbers as one kind."""
    sample: dict[str, Any] = {}
    for row in rows:
        for key, value in row.items():
            number = isinstance(value, int | float) and key != "_step"
            sample[key] = float(value) if number else value
    return pa.Table.from_pylist([sample]).schema


@contextmanager
def serving(runs: list[Run]) -> Iterator[Service]:
    """A service with these runs, at its `url`."""
    service = Service(runs)

    class Handler(BaseHTTPRequestHandler):
        def reply(self, body: bytes, kind: str = "application/json", code: int = 200) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.path != "/graphql":
                return self.reply(b"{}")
            asked = json.loads(body)
            try:
                data = service.answer(asked["query"], asked.get("variables") or {})
            except Exception as error:
                return self.reply(json.dumps({"errors": [{"message": repr(error)}]}).encode())
            return self.reply(json.dumps({"data": data}).encode())

        def do_GET(self) -> None:
            self.reply(service.blob(self.path), "application/octet-stream")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()


def environment(service: Service, cache: Path) -> dict[str, str]:
    """Environment variables that point a process's W&B to this service alone."""
    own = {"WANDB_BASE_URL": service.url, "WANDB_API_KEY": "0" * 40}
    return {**os.environ, **own, "WANDB_CACHE_DIR": str(cache), "WANDB_ERROR_REPORTING": "false"}


def recorded(folder: Path) -> list[Run]:
    """The runs whose legs lie somewhere below a folder."""
    legs: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("**/offline-run-*/run-*.wandb")):
        legs.setdefault(path.stem, []).append(path.parent)
    return [Run.recorded(several) for several in legs.values()]


if __name__ == "__main__":
    split = sys.argv.index("--")
    with serving(recorded(Path(sys.argv[1]))) as here, tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(sys.argv[split + 1 :], env=environment(here, Path(cache)))
    sys.exit(done.returncode)
