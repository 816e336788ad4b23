"""The team's server in containers: step 7 of its page, on the machine that containers.py makes."""

import os
import re
import shutil
import signal
import time
from unittest.mock import patch

import pytest
import requests
from containers import Stack
from doc_tables import blocks, text_of
from dotenv import dotenv_values
from lessons import copy_with_grid, copy_with_trials, with_grid
from running import ROOT, run_script
from sentences import assert_success
from stores import contents, runs_of
from team import caddy

pytestmark = pytest.mark.ci
PAGE = text_of("team-server.md")
START, BACKUP, RESTORE = blocks("team-server.md", "bash", "## 7. ")
(SECRETS,) = (block for block in blocks("team-server.md", "bash") if "perl" in block)
(USERS,) = (block for block in blocks("team-server.md", "bash") if "create_user" in block)
LOGIN = ("ada", re.search(r'create_user\("ada", "(.*)"', USERS)[1])
# All in the README's order, but the one that logs to a server of its own.
TABLES = (ROOT / "README.md").read_text()
LESSONS = re.findall(r"\]\(src/((?!dagshub)\w+)\.py\) \|", TABLES)
WITHOUT_RUNS = {"hypertune1", "compare_runs", "promote_model", "score_model", "check_server"}
GRID = {"n_estimators": [16, 32], "max_depth": [2, None]}
SERVICES = ["db", "s3", "mlflow"]


@pytest.fixture(scope="module")
def stack():
    """The stack, started by the page's commands."""
    stack = Stack()
    try:
        stack.shell(SECRETS)
        stack.shell(START)
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def ada(stack, tmp_path_factory):
    """By what ada's scripts reach it from another machine: Caddy in front of it, and her login."""
    with caddy(tmp_path_factory.mktemp("caddy"), stack.uri) as (uri, authority):
        yield {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_TRACKING_SERVER_CERT_PATH": authority,
            "MLFLOW_TRACKING_USERNAME": LOGIN[0],
            "MLFLOW_TRACKING_PASSWORD": LOGIN[1],
        }


@pytest.fixture(scope="module")
def filled(stack, ada, tmp_path_factory):
    """What the server holds once ada has run the lessons, with small searches."""
    folder = tmp_path_factory.mktemp("ada")
    copy_with_trials(folder, 4)
    for number in 1, 2, 3:
        script = folder / "src" / f"hypertune{number}.py"
        script.write_text(with_grid(script.read_text(), GRID))
    shutil.copytree(ROOT / "data", folder / "data")
    stack.shell(USERS)
    for name in LESSONS:
        words = ["--yes"] if name == "reproduce_run" else []
        assert_success(run_script(name, folder, *words, root=folder, **ada))
    return found(ada)


def found(ada):
    """All that ada finds on the server."""
    with patch.dict(os.environ, ada):
        return contents(ada["MLFLOW_TRACKING_URI"])


def test_each_container_is_what_compose_says(stack):
    settings = dotenv_values(stack.repo / "server" / ".env")
    states = {name: stack.state(name) for name in SERVICES}
    envs = {
        name: dict(each.split("=", 1) for each in state["Config"]["Env"])
        for name, state in states.items()
    }
    volumes = {
        name: {mount["Name"]: mount["Destination"] for mount in state["Mounts"]}
        for name, state in states.items()
    }
    assert volumes == {
        "db": {"mlflow-team_db": "/var/lib/postgresql/data"},
        "s3": {"mlflow-team_files": "/data/mlflow"},
        "mlflow": {},
    }
    assert states["mlflow"]["Config"]["User"] == "nobody"
    own = {"PGHOST": "db", "MLFLOW_S3_ENDPOINT_URL": "http://s3:9000"}
    assert envs["mlflow"].items() >= (settings | own).items()
    # The two stores get the secrets that they need, and no other.
    for name, known in ("db", "PGPASSWORD"), ("s3", "AWS_SECRET_ACCESS_KEY"):
        text = " ".join(envs[name].values())
        secrets = [key for key, value in settings.items() if re.fullmatch("[0-9a-f]{32}", value)]
        assert len(secrets) == 4
        assert [key for key in secrets if settings[key] in text] == [known]


def test_mlflow_starts_once_both_stores_are_healthy(stack):
    for name in SERVICES:
        assert stack.state(name)["State"]["Health"]["Status"] == "healthy"
    started = [stack.state(name)["State"]["StartedAt"] for name in SERVICES]
    assert max(started) == started[2]
    log = stack.shell("docker compose -f server/compose.yaml logs mlflow")
    assert "Application startup complete" in log and "will be retried" not in log


def test_it_counts_calls_for_prometheus(stack):
    """The folder for that must be one in which `nobody` may write."""
    settings = dotenv_values(stack.repo / "server" / ".env")
    admin = ("admin", settings["MLFLOW_AUTH_ADMIN_PASSWORD"])
    experiment = f"{stack.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert requests.get(experiment, auth=admin, timeout=30).status_code == 200
    answer = requests.get(f"{stack.uri}/metrics", auth=admin, timeout=30)
    assert (answer.status_code, "mlflow_http_request_total" in answer.text) == (200, True)


def test_only_mlflow_is_reachable_and_only_on_its_own_machine(stack):
    code = """
import socket, sys
for port in 5000, 5432, 9000:
    try:
        socket.create_connection((sys.argv[1], port), 5).close()
        print("open")
    except ConnectionRefusedError:
        print("refused")
"""
    answers = {
        (name, address): stack.call(*host, "python3", "-c", code, address).split()
        for name, host in (("itself", stack.inside), ("neighbour", stack.neighbour))
        for address in ("127.0.0.1", "10.99.0.1")
        if (name, address) != ("neighbour", "127.0.0.1")
    }
    closed = ["refused"] * 3
    assert answers == {
        ("itself", "127.0.0.1"): ["open", "refused", "refused"],
        ("itself", "10.99.0.1"): closed,
        ("neighbour", "10.99.0.1"): closed,
    }


def test_lessons_run_as_a_user(filled):
    assert {name for name in LESSONS if name.replace("_", "-") not in filled} == WITHOUT_RUNS
    runs = {name: each[-1] for name, each in filled.items() if not name.startswith("model ")}
    assert {run["status"] for each in runs.values() for run in each} == {"FINISHED"}
    for name in "hypertune2", "hypertune3", "hypertune-optuna":
        assert len(runs[name]) == 5
    assert [model for run in runs["hypertune2"] for model in run["models"]]
    aliases, *_ = filled["model breast-cancer-forest"]
    assert set(aliases) == {"production", "staging"}


@pytest.mark.facts
@pytest.mark.usefixtures("filled")
def test_without_the_proxy_mlflow_sends_clients_to_the_store(stack, ada):
    """Only the other containers know its address, so server/Caddyfile hides the offer."""
    info = "/api/3.0/mlflow/server-info"
    direct = requests.get(stack.uri + info, timeout=30)
    assert direct.json()["multipart_downloads_enabled"] is True
    authority = ada["MLFLOW_TRACKING_SERVER_CERT_PATH"]
    proxied = requests.get(ada["MLFLOW_TRACKING_URI"] + info, verify=authority, timeout=30)
    assert proxied.status_code == 404
    with patch.dict(os.environ, ada):
        run = runs_of(ada["MLFLOW_TRACKING_URI"], "hypertune2")[0]
    file = f"{run.info.experiment_id}/{run.info.run_id}/artifacts/hypertune2.py"
    presigned = f"{stack.uri}/api/2.0/mlflow-artifacts/presigned/{file}"
    offer = requests.get(presigned, auth=LOGIN, timeout=30)
    assert offer.json()["url"].startswith("http://s3:9000/mlflow/")


def test_a_killed_container_is_started_again_and_nothing_is_lost(stack, ada, filled):
    for name in SERVICES:
        pid = stack.state(name)["State"]["Pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while stack.state(name)["State"]["Pid"] in (0, pid):
            assert time.monotonic() < deadline, stack.state(name)["State"]
            time.sleep(0.5)
        assert stack.state(name)["RestartCount"] == 1
    stack.shell(START)  # waits until all are healthy
    assert found(ada) == filled


def test_new_containers_on_the_same_volumes_hold_the_same(stack, ada, filled):
    before = [stack.state(name)["Id"] for name in SERVICES]
    stack.shell("docker compose -f server/compose.yaml down")
    assert stack.podman("ps", "--all", "--quiet") == ""
    stack.shell(START)
    assert not {stack.state(name)["Id"] for name in SERVICES} & set(before)
    assert found(ada) == filled


def test_a_backup_holds_all_that_a_new_machine_needs(stack, ada, filled, tmp_path):
    for _ in range(2):  # again into the same folder
        stack.shell(BACKUP)
    assert (stack.repo / "mlflow.dump").stat().st_mode & 0o777 == 0o600
    copies = stack.repo / "files-backup"
    assert copies.stat().st_mode & 0o777 == 0o700
    # The second backup isn't inside of the first one.
    assert [path.name for path in copies.iterdir()] == ["mlflow"]
    assert "mlflow" not in [path.name for path in (copies / "mlflow").iterdir()]
    stack.shell("docker compose -f server/compose.yaml down --volumes")
    assert stack.podman("volume", "ls", "--quiet") == ""
    stack.shell(RESTORE)
    assert found(ada) == filled
    copy_with_grid(tmp_path, "hypertune2", {"n_estimators": [16], "max_depth": [2]})
    assert_success(run_script("hypertune2", tmp_path, root=tmp_path, **ada))
    # A client beside the proxy loads a model.
    beside = ada | {"MLFLOW_TRACKING_URI": stack.uri, "MLFLOW_TRACKING_SERVER_CERT_PATH": ""}
    beside[re.search(r"needs `(MLFLOW_\w+)=false`", PAGE)[1]] = "false"
    assert_success(run_script("score_model", tmp_path, root=tmp_path, **beside))
