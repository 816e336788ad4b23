"""What a user with a password, who means harm, can't do on the team's server; and what she can."""

import os
import re
from unittest.mock import patch

import mlflow
import pytest
import requests
from doc_tables import blocks
from mlflow import MlflowClient
from mlflow.server import get_app_client
from running import AS_ROOT, run

pytestmark = pytest.mark.ci
BLOCKS = blocks("team-server.md", "bash")


def call(team, user, method, route, **data):
    """The server's answer to a call that no client of MLflow has checked before."""
    place = {"params": data} if method == "GET" else {"json": data}
    auth = (user, team.users[user])
    return requests.request(method, f"{team.uri}/{route}", auth=auth, timeout=30, **place)


@pytest.fixture(scope="module")
def secret(team):
    """A run of ada in an experiment that bob may not even see, with the file secret.txt."""
    with patch.dict(os.environ, team.client("ada")):
        client = MlflowClient(team.uri)
        experiment = client.create_experiment("secret")
        run = client.create_run(experiment)
        client.log_text(run.info.run_id, "known to ada", "secret.txt")
        users = get_app_client("basic-auth", tracking_uri=team.uri)
        users.grant_user_permission("bob", "experiment", experiment, "DENY")
    path = f"{experiment}/{run.info.run_id}/artifacts/secret.txt"
    assert (team.files / path).read_text() == "known to ada"
    assert call(team, "bob", "GET", f"api/2.0/mlflow-artifacts/artifacts/{path}").status_code == 403
    return experiment, path


# What server/.env refuses


@pytest.mark.parametrize("tags", [{}, {"mlflow.prompt.is_prompt": "true"}], ids=["model", "prompt"])
def test_no_version_leads_to_files_that_she_may_not_read(team, secret, tags):
    experiment, path = secret
    name = f"bobs {len(tags)}"
    pairs = [{"key": key, "value": value} for key, value in tags.items()]
    models = "api/2.0/mlflow/registered-models/create"
    assert call(team, "bob", "POST", models, name=name, tags=pairs).status_code == 200
    for source in f"s3://mlflow/{experiment}", "file:///etc", "s3:/mlflow", "/etc":
        create = "api/2.0/mlflow/model-versions/create"
        made = call(team, "bob", "POST", create, name=name, source=source, tags=pairs)
        got = {"name": name, "version": 1, "path": path.partition("/")[2]}
        read = call(team, "bob", "GET", "model-versions/get-artifact", **got)
        assert "known to ada" not in read.text
        assert made.status_code == 400, made.text
        assert made.json()["message"] == f"Invalid model version source: '{source}'."
    assert team.query(f"SELECT * FROM model_versions WHERE name = '{name}'") == []


@pytest.mark.parametrize("place", ["file:///etc", "s3://mlflow", "mlflow-artifacts:/1"])
def test_no_experiment_gets_a_place_for_its_files(team, place):
    create = "api/2.0/mlflow/experiments/create"
    answer = call(team, "bob", "POST", create, name=f"in {place}", artifact_location=place)
    assert answer.status_code == 400, answer.text
    assert "cannot be greater than 0 characters" in answer.json()["message"]
    assert team.query(f"SELECT * FROM experiments WHERE name = 'in {place}'") == []


def test_the_server_keeps_no_keys_of_others(team):
    answer = call(
        team,
        "bob",
        "POST",
        "api/3.0/mlflow/gateway/secrets/create",
        secret_name="bobs",
        secret_value={"api_key": "something"},
        provider="openai",
    )
    assert answer.status_code == 501, answer.text
    assert team.query("SELECT * FROM secrets") == []


def test_what_the_lessons_and_prompts_register_is_not_refused(team):
    with patch.dict(os.environ, team.client("ada")):
        client = MlflowClient(team.uri, registry_uri=team.uri)
        run = client.create_run(client.create_experiment("sources"))
        client.log_text(run.info.run_id, "", "model/MLmodel")
        client.create_registered_model("by ada")
        folder = f"{run.info.artifact_uri}/model"
        for source in f"runs:/{run.info.run_id}/model", folder, "models:/by ada/1":
            run_id = None if "models" in source else run.info.run_id
            client.create_model_version("by ada", source, run_id)
        with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": team.uri}):
            mlflow.genai.register_prompt("greeting", "Hello {{name}}")
    assert team.query("SELECT count(*) FROM model_versions WHERE name = 'by ada'") == [(3,)]


# Other users of the machine


@pytest.mark.skipif(not AS_ROOT, reason="the block is root's")
def test_the_databases_password_stays_out_of_its_log(team, tmp_path):
    """The role is there already, as if the reader ran the block a second time."""
    (block,) = (block for block in BLOCKS if "CREATE ROLE" in block)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / ".env").write_text("PGPASSWORD=known-to-the-server\n")
    result = run(["bash", "-ec", block], tmp_path, **team.postgres.env)
    error = 'ERROR:  role "mlflow" already exists'
    assert error in result.stderr
    log = (team.postgres.folder / "log").read_text()
    assert error in log
    assert "known-to-the-server" not in log


def test_the_root_shell_starts_no_server_and_has_no_environment_of_python():
    roots = [block for block in BLOCKS if re.search("apt-get|runuser|useradd|systemctl", block)]
    assert len(roots) >= 3
    for block in roots:
        assert not re.search(r"\b(mlflow .*server|rclone serve|python src)\b ", block), block
        if re.search("^(mlflow|python|pip|rclone) ", block, re.MULTILINE):
            assert "source .venv/bin/activate" in block


# What remains open, as the page says


@pytest.mark.facts
def test_all_read_what_lies_in_the_bucket_beside_the_experiments(team):
    files = "api/2.0/mlflow-artifacts/artifacts"
    kept = {"text": "of another server"}
    assert call(team, "bob", "PUT", f"{files}/moved/notes.json", **kept).status_code == 403
    assert call(team, "admin", "PUT", f"{files}/moved/notes.json", **kept).status_code == 200
    assert call(team, "bob", "GET", f"{files}/moved/notes.json").json() == kept
    listed = call(team, "bob", "GET", files, path="moved").json()["files"]
    assert [file["path"] for file in listed] == ["notes.json"]


@pytest.mark.facts
def test_whoever_may_write_can_write_in_another_ones_name(team):
    with patch.dict(os.environ, team.client("bob")):
        client = MlflowClient(team.uri)
        run = client.create_run(client.create_experiment("bobs"), tags={"mlflow.user": "ada"})
        assert client.get_run(run.info.run_id).data.tags["mlflow.user"] == "ada"


@pytest.mark.facts
def test_mlflows_assistant_obeys_who_is_on_the_servers_machine(team):
    """The proxy says by this header where its client is."""
    ask = f"{team.uri}/ajax-api/3.0/mlflow/assistant/providers/none/health"
    login = ("bob", team.users["bob"])
    elsewhere = {"X-Forwarded-For": "203.0.113.7"}
    assert requests.get(ask, auth=login, headers=elsewhere, timeout=30).status_code == 403
    answer = requests.get(ask, auth=login, timeout=30)
    assert (answer.status_code, answer.json()["detail"]) == (404, "Provider 'none' not found")
