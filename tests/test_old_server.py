"""A server of MLflow 2, which has no logged models: what docs/troubleshooting.md says of it."""

import re
import sys

import pytest
import requests
from doc_tables import blocks
from mlflow import MlflowClient
from running import ROOT, Server, free_port, run, run_script

pytestmark = [pytest.mark.slow, pytest.mark.facts]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
FOREST = re.search(r"cat > forest.py <<'END'\n(.*?)END\n", PAGE, re.DOTALL)[1]
MESSAGE, PRINTED = blocks("troubleshooting.md", "text", "## 404 on")
(CURE,) = blocks("troubleshooting.md", "python", "## 404 on")


@pytest.fixture(scope="module")
def old_server(old_python, tmp_path_factory):
    """The address of a server of MLflow 2.22."""
    folder = tmp_path_factory.mktemp("old-server")
    path = f"{old_python.parent}:/usr/bin:/bin"
    command = ("server", "--workers", "1", "--backend-store-uri", "sqlite:///old.db")
    server = Server(folder, *command, "--port", str(free_port()), PATH=path)
    yield server.uri
    server.stop()


def test_connect_says_that_it_is_too_old(old_server, tmp_path):
    result = run_script("basic_run", tmp_path, MLFLOW_TRACKING_URI=old_server)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "the server is older than MLflow 3" in result.stderr


def test_the_message_and_its_cure(old_server, tmp_path):
    (tmp_path / "forest.py").write_text(FOREST)
    cause = (
        "import mlflow; from forest import forest; mlflow.sklearn.log_model(forest, name='forest', "
        "skops_trusted_types=['sklearn.tree._tree.Tree'], pip_requirements=['skops'])"
    )
    failed = run([sys.executable, "-c", cause], tmp_path, MLFLOW_TRACKING_URI=old_server)
    assert MESSAGE.strip() in failed.stderr
    cured = run([sys.executable, "-c", CURE], tmp_path, MLFLOW_TRACKING_URI=old_server)
    assert cured.returncode == 0, cured.stderr
    assert cured.stdout.splitlines()[-1] == PRINTED.strip()
    client = MlflowClient(old_server, registry_uri=old_server)
    experiment = client.get_experiment_by_name("forests")
    (run_,) = client.search_runs([experiment.experiment_id])
    # Today's client lists a folder of files only on servers that know logged models.
    asked = {"run_id": run_.info.run_id, "path": "forest"}
    answer = requests.get(f"{old_server}/api/2.0/mlflow/artifacts/list", asked, timeout=30).json()
    assert "forest/model.skops" in [file["path"] for file in answer["files"]]
