"""A stand-in of dagshub.com on 127.0.0.1: the API that the dagshub package asks, MLflow behind it.

The API's answers have the shapes that dagshub 0.7 parses. What else the real site does isn't known
here: its MLflow may be older, and its pages and refusals may look different.
"""

import base64
import re
import socket
import threading
import time

import httpx
import uvicorn
from running import ROOT, run_script
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

USER, TOKEN, REPO = "ada", "t0ken-of-ada-3f9c", "ada/wine"
PERSON = {"id": 1, "login": USER, "username": USER, "full_name": "Ada"}
# What belongs to one connection only, or to a body that httpx has unpacked.
HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding"}


def settings(folder, host, **env):
    """What the lesson reads, less what is None; and a browser that leaves a file when it opens."""
    given = {"DAGSHUB_REPO": REPO, "DAGSHUB_USER_TOKEN": TOKEN, "DAGSHUB_CLIENT_HOST": host}
    own = {"BROWSER": f"touch {folder}/browser %s", "DAGSHUB_CLIENT_TOKENS_CACHE": f"{folder}/none"}
    return {name: text for name, text in (given | own | env).items() if text is not None}


def dagshub_run(folder, host, root=ROOT, **env):
    """Run the lesson; return the finished process, which never showed the token."""
    result = run_script("dagshub_run", folder, root=root, **settings(folder, host, **env))
    assert TOKEN not in result.stdout + result.stderr
    assert not (folder / "browser").exists()
    return result


def check_server(folder, site):
    """Ask the MLflow of the SITE what it can do; return the finished process."""
    login = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": TOKEN}
    place = {"MLFLOW_TRACKING_URI": f"{site.host}/{REPO}.mlflow"}
    return run_script("check_server", folder, **place, **login)


def described(repo):
    """A repo as the API describes it."""
    address = f"https://dagshub.com/{repo}"
    named = {"name": repo.split("/")[1], "full_name": repo, "default_branch": "main"}
    flags = dict.fromkeys(["private", "fork", "empty", "mirror"], False)
    counts = ["stars_count", "forks_count", "watchers_count", "open_issues_count", "size"]
    times = dict.fromkeys(["created_at", "updated_at"], "2026-01-01T00:00:00Z")
    urls = {"html_url": address, "clone_url": f"{address}.git"}
    other = {"id": 2, "owner": PERSON, "description": ""}
    return named | urls | times | flags | dict.fromkeys(counts, 0) | other


class DagsHub:
    """The site within `with`. HOST is its address; ASKED lists all requests, "GET /api/v1/user"."""

    def __init__(self, mlflow="", refuse=None):
        self.mlflow = mlflow  # the address of the server behind
        self.refuse = refuse or {}  # the status to answer, by how a path ends
        self.asked = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        app = Starlette(routes=[Route("/{path:path}", self.answer, methods=methods)])
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()

    async def answer(self, request):
        path, user = request.url.path, request.headers.get("authorization")
        self.asked.append(f"{request.method} {path}")
        for end, status in self.refuse.items():
            if path.endswith(end):
                return Response("", status)
        if path.startswith("/api/v1/"):
            status, body = self.api(*self.asked[-1].split())
            return JSONResponse(body, status) if user == f"Bearer {TOKEN}" else Response("", 401)
        found = re.fullmatch(f"/{REPO}([.]mlflow)?(/.*)?", path)
        if not found or not found[1]:  # a page of the site, whatever follows the repo's name
            return HTMLResponse(f"<!DOCTYPE html><title>{path}</title>", 200 if found else 404)
        if user != "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode():
            return Response("", 401, {"WWW-Authenticate": "Basic"})  # so that a browser asks
        if not found[2]:  # MLflow's pages name their files relative to the address with a slash
            return RedirectResponse(f"{path}/")
        return await self.behind(request, found[2])

    def api(self, method, path):
        """The status and the answer for the owner of the token."""
        if path == "/api/v1/user":
            return 200, PERSON
        if path == f"/api/v1/repos/{REPO}":
            return 200, described(REPO)
        made = method == "POST" and path.endswith("/repos")
        return (201, described("ada/made")) if made else (404, {})

    async def behind(self, request, path):
        """The answer of the MLflow server, which never sees the token."""
        sent = {k: v for k, v in request.headers.items() if k not in HOP | {"authorization"}}
        async with httpx.AsyncClient(base_url=self.mlflow, timeout=60) as client:
            answer = await client.request(
                request.method,
                path,
                params=request.query_params.multi_items(),
                headers=sent,
                content=await request.body(),
            )
        kept = {k: v for k, v in answer.headers.items() if k not in HOP}
        return Response(answer.content, answer.status_code, kept)
