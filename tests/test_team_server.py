"""The team's server with real parts, what its users meet when a part fails, and its page."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import pytest
import requests
from botocore.exceptions import ClientError
from doc_tables import blocks, rows, text_of
from dotenv import dotenv_values
from filled import copy_after, copy_before
from lessons import copy_with_grid
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client
from running import ROOT, at_once, run, run_script
from sentences import assert_one_sentence
from services import ENV, WITHOUT_JOBS, Server, Service, free_port
from stores import children_of, runs_of
from team import FOLDER, caddy, compose, missing
from team_searches import (
    NOTICE,
    assert_search_is_whole,
    bucket,
    paused,
    start_search,
    statuses_in,
    wait_for_notice,
)

pytestmark = pytest.mark.ci
PAGE = text_of("team-server.md")


@pytest.fixture(scope="module")
def searched(team, tmp_path_factory):
    """The folder in which ada has run hypertune2 and register_model, and what the first printed."""
    folder = tmp_path_factory.mktemp("searched")
    search = run_script("hypertune2", folder, **team.client("ada"))
    assert (search.returncode, search.stderr) == (0, "")
    assert run_script("register_model", folder, **team.client("ada")).returncode == 0
    return folder, search.stdout


# What goes where


def test_values_are_in_postgresql_and_files_in_the_bucket(team, searched):
    folder, printed = searched
    parent = re.search(r"ID (\w{32})", printed)[1]
    is_child = f"key = 'mlflow.parentRunId' AND value = '{parent}'"
    children = f"SELECT run_uuid FROM tags WHERE {is_child}"
    assert team.query(f"SELECT count(*) FROM metrics WHERE run_uuid IN ({children})") == [(144,)]
    assert team.query(f"SELECT count(*) FROM params WHERE run_uuid IN ({children})") == [(32,)]
    (found,) = team.query(f"SELECT experiment_id, artifact_uri FROM runs WHERE run_uuid='{parent}'")
    experiment, where = found
    assert where == f"mlflow-artifacts:/{experiment}/{parent}/artifacts"
    objects = bucket(team)
    for name in "heatmap.png", "hypertune2.py":
        assert f"{experiment}/{parent}/artifacts/{name}" in objects
    assert any(
        re.fullmatch(rf"{experiment}/models/m-\w+/artifacts/model.skops", o) for o in objects
    )
    assert not list(folder.iterdir())


def test_the_store_knows_right_keys_from_wrong_ones(team):
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        bucket(team, secret="wrong")
    anonymous = requests.get(f"{team.s3.uri}/mlflow", timeout=10)
    assert anonymous.status_code in (400, 403)


# Who may do what


@pytest.mark.parametrize(
    "login", [{}, {"MLFLOW_TRACKING_PASSWORD": "wrong"}], ids=["none", "wrong"]
)
def test_without_the_right_password_nobody_gets_in(team, tmp_path, login):
    user = {"MLFLOW_TRACKING_USERNAME": "ada"} if login else {}
    env = {"MLFLOW_TRACKING_URI": team.uri} | user | login
    result = run_script("hypertune2", tmp_path, **env)
    assert_one_sentence(result, "failed with error code 401", longest=500)


def test_without_a_password_no_page_opens(team):
    assert requests.get(f"{team.uri}/api/2.0/mlflow/experiments/get", timeout=30).status_code == 401
    for path in "/", "/version", "/metrics", "/graphql":
        assert requests.get(team.uri + path, timeout=30).status_code == 401, path


@pytest.mark.usefixtures("searched")
def test_one_user_cannot_write_where_another_owns(team, tmp_path):
    before = len(statuses_in(team, "hypertune2"))
    for name in "hypertune2", "register_model", "promote_model":
        result = run_script(name, tmp_path, **team.client("bob"))
        assert result.returncode == 1
        assert "failed with error code 403" in result.stderr.splitlines()[-1]
    assert len(statuses_in(team, "hypertune2")) == before
    # Reading is allowed: the default permission.
    experiment = requests.get(
        f"{team.uri}/api/2.0/mlflow/experiments/get-by-name",
        {"experiment_name": "hypertune2"},
        auth=("bob", team.users["bob"]),
        timeout=30,
    )
    assert experiment.json()["experiment"]["name"] == "hypertune2"


@pytest.mark.usefixtures("searched")
def test_moving_an_alias_takes_edit_on_the_model(team, tmp_path):
    with patch.dict(os.environ, team.client("ada")):
        owner = get_app_client("basic-auth", tracking_uri=team.uri)
        owner.grant_user_permission("bob", "registered_model", "breast-cancer-forest", "EDIT")
    result = run_script("promote_model", tmp_path, **team.client("bob"))
    assert (result.returncode, result.stderr) == (0, "")
    assert "@production is version" in result.stdout


def allowed(call, *args):
    """Call; return whether the server allows it."""
    try:
        call(*args)
    except MlflowException as error:
        assert "403" in str(error), error
        return "no"
    return "yes"


def test_each_permission_of_the_table_can_be_granted_and_means_what_it_says(team):
    levels = {
        name.strip("`"): answers
        for name, answers in rows("team-server.md").items()
        if set(answers) <= {"yes", "no"}
    }
    assert list(levels) == ["DENY", "READ", "EDIT", "MANAGE"]
    levels["USE"] = levels["READ"]
    client, users = MlflowClient(team.uri), get_app_client("basic-auth", tracking_uri=team.uri)
    with patch.dict(os.environ, team.client("ada")):
        one = client.create_experiment("levels")
        with pytest.raises(MlflowException, match="NO_PERMISSIONS"):
            users.grant_user_permission("bob", "experiment", one, "NO_PERMISSIONS")
    for level, answers in levels.items():
        with patch.dict(os.environ, team.client("ada")):
            users.grant_user_permission("bob", "experiment", one, level)
        with patch.dict(os.environ, team.client("bob")):
            found = [
                allowed(client.get_experiment, one),
                allowed(client.create_run, one),
                allowed(client.delete_experiment, one),
                allowed(users.grant_user_permission, "admin", "experiment", one, "READ"),
            ]
        assert found == answers, level
        with patch.dict(os.environ, team.client("ada")):
            users.revoke_user_permission("bob", "experiment", one)
            if answers[2] == "yes":
                client.restore_experiment(one)


def test_it_does_not_start_without_a_password_of_your_own(team, tmp_path):
    env = team.environment("mlflow")
    env["MLFLOW_AUTH_ADMIN_PASSWORD"] = ""
    settings = (FOLDER / "basic_auth.ini").read_text()
    (tmp_path / "auth.ini").write_text(
        settings.replace("postgresql+psycopg:///mlflow", "sqlite:///a.db")
    )
    env["MLFLOW_AUTH_CONFIG_PATH"] = str(tmp_path / "auth.ini")
    command = ["mlflow", "server", "--app-name", "basic-auth", "--port", str(free_port())]
    command += ["--workers", "1"]
    result = run(command, tmp_path, **env, timeout=120)
    assert result.returncode == 1
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in result.stderr


# When a part fails


def kill_server(team, process):
    """Kill MLflow's server while it answers no call."""
    with paused(process):
        team.mlflow.stop(signal.SIGKILL)


def test_server_killed_in_mid_search_and_started_again(team, tmp_path):
    process = start_search(team, tmp_path)
    kill_server(team, process)
    wait_for_notice(tmp_path)
    team.start_mlflow()
    assert_search_is_whole(team, process)
    for line in (tmp_path / "errors").read_text().splitlines():
        assert line.startswith(NOTICE) and "connection broken by" in line


def test_server_killed_for_good_ends_by_ctrl_c_and_keeps_what_was_logged(team, tmp_path):
    before = statuses_in(team, "hypertune2")
    process = start_search(team, tmp_path)
    kill_server(team, process)
    wait_for_notice(tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    after = statuses_in(team, "hypertune2")
    team.start_mlflow()
    assert process.returncode == 1
    errors = (tmp_path / "errors").read_text()
    assert "\nInterrupted: what was logged is kept\n" in errors
    # The run's end can't be written: it stays RUNNING, and a traceback says why.
    assert re.search("mlflow.exceptions.MlflowException: .*Connection refused.*\n$", errors)
    statuses = [status for run_id, status in after.items() if run_id not in before]
    assert statuses.count("FINISHED") >= 4
    assert statuses.count("RUNNING") in (1, 2) and len(statuses) >= 6


# Interrupted, and once more in the call that ends the run.
TWICE = """
import signal
import mlflow
from interrupts import exit_on_interrupt
from urllib3 import HTTPConnectionPool

real = HTTPConnectionPool._make_request
def interrupted(self, connection, method, url, **options):
    if url.endswith("runs/update"):
        HTTPConnectionPool._make_request = real
        signal.raise_signal(signal.SIGTERM)
    return real(self, connection, method, url, **options)

exit_on_interrupt()
mlflow.set_experiment("twice")
with mlflow.start_run():
    HTTPConnectionPool._make_request = interrupted
    signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_that_breaks_off_the_end_of_a_run_leaves_it_failed(team, tmp_path):
    env = team.client("ada") | {"PYTHONPATH": str(ROOT / "src")}
    result = run([sys.executable, "-c", TWICE], tmp_path, **env)
    said = "Interrupted: what was logged is kept\n"
    assert result.returncode == 128 + signal.SIGTERM
    assert result.stderr.partition("\n")[2] == said * 2  # after MLflow's on the new experiment
    assert list(statuses_in(team, "twice").values()) == ["FAILED"]


def test_database_stopped_in_mid_search_and_started_again(team, tmp_path):
    process = start_search(team, tmp_path)
    logged = len(team.mlflow.log.read_text())
    team.postgres.stop()
    try:
        while '" 50' not in team.mlflow.log.read_text()[logged:]:
            assert process.poll() is None
            time.sleep(0.2)
        # /health speaks of MLflow alone.
        assert requests.get(f"{team.uri}/health", timeout=30).text == "OK"
        result = run_script("basic_run", tmp_path, **team.client("ada"))
        assert_one_sentence(result, "too many 50", "error responses", "the-place-for-the-runs")
    finally:
        team.postgres.start()
    assert_search_is_whole(team, process)
    said = (tmp_path / "errors").read_text().splitlines()
    assert said and all(line.startswith("Retry: /api/2.0/mlflow/") for line in said)


# Many at once


CLIENT = """
import sys
import mlflow
from tracking import connect
connect()
experiment_id = mlflow.set_experiment("eight-at-once").experiment_id
for number in range(12):
    with mlflow.start_run(experiment_id=experiment_id):
        mlflow.log_params({"client": sys.argv[1], "number": number})
        mlflow.log_metrics({"one": 1, "two": 2})
"""


def test_eight_clients_at_once_lose_no_run(team, tmp_path):
    env = team.client("ada") | {"PYTHONPATH": str(ROOT / "src")}
    clients = [
        partial(run, [sys.executable, "-c", CLIENT, str(n)], tmp_path, **env) for n in range(8)
    ]
    results = at_once(*clients)
    assert [(r.returncode, r.stderr) for r in results] == [(0, "")] * 8
    sql = """
        SELECT params.value, count(DISTINCT runs.run_uuid) FROM runs
        JOIN experiments USING (experiment_id) JOIN params USING (run_uuid)
        JOIN latest_metrics USING (run_uuid)
        WHERE experiments.name = 'eight-at-once' AND params.key = 'client'
        AND runs.status = 'FINISHED' AND latest_metrics.key = 'two' GROUP BY params.value
    """
    assert dict(team.query(sql)) == {str(n): 12 for n in range(8)}
    assert len(statuses_in(team, "eight-at-once")) == 8 * 12


CLIENTS, STEPS = 64, 5
ALL = {STEPS - 1: CLIENTS}
CONNECTIONS = {
    name: value
    for name, value in dotenv_values(FOLDER / ".env.example").items()
    if name.startswith("MLFLOW_SQLALCHEMYSTORE_")
}


def log_at_once(server):
    """Log a metric of several steps into each of 64 runs; the last one, or the error, counted."""
    client = MlflowClient(server)
    experiment = client.create_experiment("at once")
    runs = [client.create_run(experiment).info.run_id for _ in range(CLIENTS)]
    together = threading.Barrier(CLIENTS)

    def log(run_id):
        together.wait()
        try:
            for step in range(STEPS):
                client.log_batch(run_id, metrics=[Metric("accuracy", step, 0, step)])
        except MlflowException as error:
            return str(error).split(" reached")[0]

    errors = at_once(*[partial(log, run_id) for run_id in runs])
    return Counter(
        error or client.get_run(run_id).data.metrics["accuracy"]
        for run_id, error in zip(runs, errors, strict=True)
    )


@pytest.fixture
def server_with(team, tmp_path):
    """Start a server of one process on the team's PostgreSQL, with these variables."""
    with ExitStack() as started:

        def start_server(name, **env):
            store = team.postgres.make_database(name)
            command = ["server", "--workers", "1", "--backend-store-uri", store]
            server = Server(tmp_path, *command, **WITHOUT_JOBS, **env)
            started.callback(server.stop)
            return server.uri

        yield start_server


@pytest.mark.facts
def test_sixty_four_clients_block_one_another(server_with):
    """log_batch takes two connections; in SQLite one writes at a time anyway."""
    found = log_at_once(server_with("few"))
    assert set(found) <= {STEPS - 1, "BAD_REQUEST: QueuePool limit of size 5 overflow 10"}
    assert found != ALL


def test_with_the_connections_of_env_example_none_fails(server_with):
    assert log_at_once(server_with("many", **CONNECTIONS)) == ALL


def test_the_teams_server_has_enough(team):
    assert log_at_once(team.uri) == ALL


# In front of it, beside it, and before it


@pytest.fixture(scope="module")
def proxy(team, tmp_path_factory):
    """Caddy in front of it; and its CA."""
    with caddy(tmp_path_factory.mktemp("caddy"), team.uri) as found:
        yield found


def test_the_first_run_by_tls_is_the_pages(team, proxy, tmp_path):
    (block,) = [each for each in blocks("team-server.md", "bash") if "=https://mlflow" in each]
    uri, authority = proxy
    copy_with_grid(tmp_path, "hypertune2", {"n_estimators": [16], "max_depth": [2]})
    shutil.copy(authority, tmp_path / "ca.crt")
    block = block.replace("https://mlflow.example.com", uri)
    block = block.replace("known-to-ada-alone", team.users["ada"])
    result = run(["bash", "-ec", block], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Next: ")


def test_clients_reach_it_by_tls_and_say_which_certificate_they_miss(team, proxy, tmp_path):
    uri, authority = proxy
    env = team.client("ada") | {"MLFLOW_TRACKING_URI": uri}
    result = run_script("basic_run", tmp_path, **env)
    assert_one_sentence(
        result, "CERTIFICATE_VERIFY_FAILED", "unable to get local issuer", longest=400
    )
    env["MLFLOW_TRACKING_SERVER_CERT_PATH"] = authority
    result = run_script("basic_run", tmp_path, **env)
    assert (result.returncode, result.stderr) == (0, "")
    # nginx, unlike Caddy, refuses files of more than 1 MB unless it is told not to.
    code = (
        "import mlflow; mlflow.set_experiment('large'); mlflow.log_text('x' * 30_000_000, 'x.txt')"
    )
    assert run([sys.executable, "-c", code], tmp_path, **env).returncode == 0
    assert [key for key in bucket(team) if key.endswith("/artifacts/x.txt")]
    plain = run_script(
        "basic_run", tmp_path, **env | {"MLFLOW_TRACKING_URI": uri.replace("https", "http")}
    )
    assert_one_sentence(plain, "Can't use MLFLOW_TRACKING_URI=http://localhost", longest=400)
    wrong = run_script(
        "basic_run",
        tmp_path,
        **team.client("ada") | {"MLFLOW_TRACKING_URI": team.uri.replace("http:", "https:")},
    )
    assert_one_sentence(wrong, "WRONG_VERSION_NUMBER")


def test_it_answers_under_its_own_names_and_to_its_own_pages(team):
    path = f"{team.uri}/api/2.0/mlflow/experiments/search"
    auth = ("ada", team.users["ada"])
    for host, status in ("mlflow.example.com", 200), ("elsewhere.example.com", 403):
        answer = requests.post(
            path, json={"max_results": 1}, headers={"Host": host}, auth=auth, timeout=30
        )
        assert answer.status_code == status, host
    for origin, status in ("mlflow.example.com", 200), ("elsewhere.example.com", 403):
        answer = requests.post(
            path.replace("/api/", "/ajax-api/"),
            json={"max_results": 1},
            headers={"Origin": f"https://{origin}"},
            auth=auth,
            timeout=30,
        )
        assert answer.status_code == status, origin


def test_numbers_for_prometheus_are_the_admins(team):
    user, admin = (("ada", team.users["ada"]), ("admin", team.users["admin"]))
    path = f"{team.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    for _ in range(3):
        requests.get(path, auth=user, timeout=30).raise_for_status()
    assert requests.get(f"{team.uri}/metrics", auth=user, timeout=30).status_code == 403
    text = requests.get(f"{team.uri}/metrics", auth=admin, timeout=30).text
    (count,) = re.findall(
        r'^mlflow_http_request_total\{method="GET",status="200"\} (.*)', text, re.M
    )
    assert float(count) >= 3


def test_mariadb(mariadb, tmp_path):
    command = re.search(
        r"^MLFLOW_BACKEND_STORE_URI=(mysql\S+) mlflow server .*", PAGE, re.MULTILINE
    )
    uri = command[1].replace("$PASSWORD", "maria").replace("127.0.0.1", "127.0.0.1:PORT")
    assert uri == re.sub(r":\d+/", ":PORT/", mariadb)
    port = str(free_port())
    line = command[0].replace("5000", port).replace(command[1], mariadb)
    bash = ["bash", "-c", f"exec env {line}"]
    server = Service(bash, tmp_path, port, path="/health", **WITHOUT_JOBS)
    try:
        copy_before(tmp_path, "hypertune2")
        for name in "hypertune2", "log_dataset", "register_model":
            result = run_script(name, tmp_path, root=tmp_path, MLFLOW_TRACKING_URI=server.uri)
            assert result.returncode == 0, result.stderr
        client = MlflowClient(server.uri, registry_uri=server.uri)
        runs = runs_of(server.uri, "hypertune2")
        assert [each.info.status for each in runs] == ["FINISHED"] * 5
        client.set_tag(runs[0].info.run_id, "wine", "Rosé 🍷")
        assert client.get_run(runs[0].info.run_id).data.tags["wine"] == "Rosé 🍷"
    finally:
        server.stop()


OLD = """
import mlflow, sys
mlflow.set_experiment("old")
with mlflow.start_run(run_name="parent") as parent:
    mlflow.log_param("depth", 4)
    with mlflow.start_run(run_name="child", nested=True):
        mlflow.log_metric("accuracy", 0.5)
    mlflow.log_text("text", "notes.txt")
print(parent.info.run_id)
"""


def assert_old_runs(client, run_id):
    parent = client.get_run(run_id)
    (child,) = children_of(client, parent)
    assert (parent.data.params, child.data.metrics) == ({"depth": "4"}, {"accuracy": 0.5})


def test_a_database_of_mlflow_2_is_upgraded(team, old_python, tmp_path):
    team.postgres.sql("CREATE DATABASE old OWNER mlflow")
    # MLflow 2 compares numbers with texts, which psycopg 3 doesn't let pass.
    install = [old_python, "-m", "pip", "install", "-q", "psycopg2-binary"]
    subprocess.run(install, check=True, timeout=600)
    env = {k: v for k, v in team.environment("mlflow").items() if k.startswith("PG")}
    uri = "postgresql+psycopg:///old"
    result = run([old_python, "-c", OLD], tmp_path, MLFLOW_TRACKING_URI="postgresql:///old", **env)
    assert result.returncode == 0, result.stderr
    lines = re.findall(
        r"^(?:mlflow|python -m mlflow.server.auth) db upgrade .*?\)?$", PAGE, re.MULTILINE
    )
    assert len(lines) == 3  # with that of "Moving up"
    for line in lines[:2]:
        command = line.removesuffix(")").replace("$MLFLOW_BACKEND_STORE_URI", uri)
        upgraded = run(["bash", "-ec", command], tmp_path, **env)
        assert upgraded.returncode == 0, upgraded.stderr
    login = f"{env['PGUSER']}:{env['PGPASSWORD']}@{env['PGHOST']}:{env['PGPORT']}"
    client = MlflowClient(f"postgresql+psycopg://{login}/old")
    assert_old_runs(client, result.stdout.split()[-1])


def test_a_client_of_mlflow_2_works_on_it(team, old_python, tmp_path):
    result = run([old_python, "-c", OLD], tmp_path, **team.client("ada"))
    assert result.returncode == 0, result.stderr
    (run_id,) = re.findall(r"^\w{32}$", result.stdout, re.MULTILINE)
    assert_old_runs(MlflowClient(team.uri, registry_uri=team.uri), run_id)
    assert any(key.endswith(f"{run_id}/artifacts/notes.txt") for key in bucket(team))


# Moving up


def test_export_import_keeps_and_loses_what_the_page_says(team, tmp_path):
    copy_after(tmp_path, "hypertune2")
    (block,) = re.findall(r"^```bash\n(python3 -m venv .venv-move\n.*?)^```", PAGE, re.M | re.S)
    block = block.replace("http://127.0.0.1:5000", team.uri).replace(
        "known-to-ada-alone", team.users["ada"]
    )
    moved = run(["bash", "-ec", block], tmp_path, timeout=600, PIP_NO_COMPILE="1")
    assert moved.returncode == 0, moved.stderr[-2000:]
    old = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    new = MlflowClient(team.uri, registry_uri=team.uri)
    runs = {}
    for client, name in (old, "hypertune2"), (new, "hypertune2-moved"):
        found = runs_of(client.tracking_uri, name)
        runs[client] = {each.info.run_name: each for each in found}
        assert len(runs[client]) == len(found) == 5
    for name, was in runs[old].items():
        now = runs[new][name]
        assert (now.data.params, now.data.metrics) == (was.data.params, was.data.metrics)
        assert now.info.run_id != was.info.run_id and now.info.start_time > was.info.start_time
        parent = now.data.tags.get("mlflow.parentRunId")
        assert parent == (None if name == "grid search" else runs[new]["grid search"].info.run_id)
    parent = runs[new]["grid search"]
    assert parent.data.tags["search"] == "breast-cancer-forest"
    assert {file.path for file in new.list_artifacts(parent.info.run_id)} >= {
        "heatmap.png",
        "hypertune2.py",
    }
    assert not parent.inputs.dataset_inputs and not parent.outputs.model_outputs
    assert not new.search_logged_models([parent.info.experiment_id])


# Its files and its page


def test_compose_is_the_stack_that_the_tests_run(team):
    """Commands and variables are run by team.py; this is what a container adds to them."""
    services = compose()
    assert set(services) == {"mlflow", "db", "s3"}
    for name, service in services.items():
        assert service["restart"] == "unless-stopped"
        assert team.healthy(name), name
        assert ("ports" in service) == (name == "mlflow")
        image = (
            service.get("image")
            or re.search(r"FROM (\S+)", service["build"]["dockerfile_inline"])[1]
        )
        assert re.search(r":\d+\.\d+", image), f"{image} is not pinned"
    assert services["mlflow"]["ports"] == ["127.0.0.1:5000:5000"]
    assert set(services["mlflow"]["depends_on"]) == {"db", "s3"}
    # Every file that the image copies exists, and all that is installed is pinned.
    for line in re.findall(r"COPY (.*) \S+", services["mlflow"]["build"]["dockerfile_inline"]):
        for name in line.removeprefix("--chmod=644 ").split():
            assert (ROOT / name).exists(), name
    volumes = {v.split(":")[0] for service in services.values() for v in service.get("volumes", [])}
    assert volumes == {"db", "files"}


def test_a_check_of_health_sees_a_part_that_is_down(team):
    team.postgres.stop()
    assert not team.healthy("db")
    team.postgres.start()
    team.s3.stop()
    assert not team.healthy("s3")
    team.start_s3()
    assert team.healthy("db") and team.healthy("s3")


def test_secrets_come_from_the_environment_alone(team):
    text = (FOLDER / ".env.example").read_text() + json.dumps(compose())
    assert len(team.secrets) == 4
    for name in "PGPASSWORD", "AWS_SECRET_ACCESS_KEY":
        assert f"${{{name}:?}}" in text
    ignored = run(["git", "check-ignore", "server/.env"], ROOT)
    assert ignored.stdout == "server/.env\n"


@pytest.mark.parametrize("name", ["mlflow", "mlflow-s3"])
def test_the_unit_is_one_and_starts_what_the_page_starts(name, tmp_path):
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze", "systemd")
    copy = f"cp /srv/mlflow/server/{name}.service /etc/systemd/system/"
    assert f"\n{copy}\nsystemctl enable --now {name}\n" in PAGE
    unit = (FOLDER / f"{name}.service").read_text()
    command = re.search(r"^ExecStart=/srv/mlflow/(?:\.venv/bin/)?(.*)", unit, re.MULTILINE)[1]
    assert f"\n{command}\n```" in PAGE
    # Where the program is on this machine.
    unit = unit.replace("/srv/mlflow/.venv/bin/mlflow", shutil.which("mlflow", path=ENV["PATH"]))
    unit = unit.replace("/srv/mlflow/server/", f"{FOLDER}/")
    (tmp_path / f"{name}.service").write_text(unit.replace("User=mlflow", "User=root"))
    result = run(["systemd-analyze", "verify", str(tmp_path / f"{name}.service")], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_what_root_installs_can_be_read_by_the_service():
    """umask 077 is for the other terminals, and for what comes after the installation."""
    assert "umask" not in re.search("Begin each terminal with `(.*?)`", PAGE)[1]
    assert "git clone" in PAGE.split("umask 077")[0] and "-m venv" in PAGE.split("umask 077")[0]


def test_the_page_fills_in_the_name(tmp_path):
    if not shutil.which("caddy"):
        missing("Caddy", "caddy")
    named = [block for block in blocks("team-server.md", "bash") if "$HOST" in block]
    lines = [line for block in named for line in block.splitlines()]
    lines = [line for line in lines if line.startswith(("HOST=", "sed "))]
    assert len(lines) == 4
    (tmp_path / "server").mkdir()
    shutil.copy(FOLDER / "Caddyfile", tmp_path / "server")
    shutil.copy(FOLDER / ".env.example", tmp_path / "server" / ".env")
    here = "\n".join(lines).replace("/srv/mlflow/", "").replace("/etc/caddy/", "")
    here = here.replace("HOST=mlflow.example.com", "HOST=ml.company.org")
    result = run(["bash", "-ec", here], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    before = dotenv_values(FOLDER / ".env.example")
    after = dotenv_values(tmp_path / "server" / ".env")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"}
    assert not any("example.com" in value for value in after.values())
    assert "\nml.company.org {\n\ttls internal\n" in (tmp_path / "Caddyfile").read_text()
    adapt = ["caddy", "adapt", "--adapter", "caddyfile", "--config", "Caddyfile"]
    assert run(adapt, tmp_path).returncode == 0


# Last: by now everything has been logged


def test_no_secret_is_stored_or_printed(team, tmp_path):
    uri = team.uri.replace("//", f"//ada:{team.users['ada']}@")
    result = run_script("basic_run", tmp_path, MLFLOW_TRACKING_URI=uri)
    assert result.returncode == 0, result.stderr
    dump = team.postgres.dump("mlflow")
    assert "test_accuracy" in dump
    files = [path for path in team.files.rglob("*") if path.is_file()]
    assert files
    logs = [team.mlflow.log, team.s3.log, team.postgres.folder / "log"]
    texts = [result.stdout, dump, *(path.read_bytes().decode("latin-1") for path in files + logs)]
    for name, secret in (team.secrets | team.users).items():
        assert not any(secret in text for text in texts), name
