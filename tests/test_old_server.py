"""A server of MLflow 2, which has no logged models: what troubleshooting.md says of it."""

import re
import sys

import pytest
import requests
from dagshub_standin import DagsHub, check_server, dagshub_run
from doc_tables import blocks, text_of
from guests import ROWS, answers
from mlflow import MlflowClient
from running import LESSONS, run, run_script
from sentences import assert_one_sentence, assert_success
from services import Server
from stores import runs_of

pytestmark = [pytest.mark.ci, pytest.mark.facts]
PAGE = text_of("troubleshooting.md")
FOREST = re.search(r"cat > forest.py <<'END'\n(.*?)END\n", PAGE, re.DOTALL)[1]
MESSAGE, PRINTED = blocks("troubleshooting.md", "text", "## 404 on")
(CURE,) = blocks("troubleshooting.md", "python", "## 404 on")


@pytest.fixture(scope="module")
def old_server(old_python, tmp_path_factory):
    """The address of a server of MLflow 2.22."""
    folder = tmp_path_factory.mktemp("old-server")
    command = ("server", "--workers", "1", "--backend-store-uri", "sqlite:///old.db")
    server = Server(folder, *command, PATH=f"{old_python.parent}:/usr/bin:/bin")
    yield server.uri
    server.stop()


def files_in(server, run_id, folder):
    """The paths in a FOLDER of the run: today's client lists it only on servers of MLflow 3."""
    asked = {"run_id": run_id, "path": folder}
    answer = requests.get(f"{server}/api/2.0/mlflow/artifacts/list", asked, timeout=30)
    return [file["path"] for file in answer.json()["files"]]


def test_check_server_says_of_each_lesson_what_it_does_there(old_server, tmp_path):
    """Only dagshub_run runs, as the last test shows. The others' connect() says why not."""
    result = run_script("check_server", tmp_path, MLFLOW_TRACKING_URI=old_server)
    asked, lessons = answers(assert_success(result))
    assert asked.pop("version").startswith("2.22.")
    assert re.match(r"no: .*/logged-models failed with error code 404 ", asked["logged models"])
    assert [row for row in ROWS if asked[row] != "yes"] == ["logged models"]
    assert lessons.pop("dagshub_run") == "yes"
    assert set(lessons.values()) == {"no, without logged models"}
    needless = {"check_server", "dagshub_run", "hypertune1"}
    assert set(lessons) == {path.stem for path in LESSONS} - needless
    for name in lessons:
        result = run_script(name, tmp_path, MLFLOW_TRACKING_URI=old_server)
        assert_one_sentence(
            result,
            "/logged-models/search failed with error code 404",
            "the-place-for-the-runs",
            longest=500,
        )
    with DagsHub(old_server) as site:
        assert answers(assert_success(check_server(tmp_path, site)))[1]["dagshub_run"] == "yes"


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
    (forest,) = runs_of(old_server, "forests")
    assert "forest/model.skops" in files_in(old_server, forest.info.run_id, "forest")


def test_dagshub_run_works_on_it(old_server, tmp_path):
    """What version DagsHub runs isn't known."""
    with DagsHub(old_server) as site:
        result = dagshub_run(tmp_path, site.host)
    assert (result.returncode, result.stderr) == (0, "")
    assert "repeats 18 of 18 predictions\n" in result.stdout
    run_id = re.search(r"ID (\w+)", result.stdout)[1]
    assert MlflowClient(old_server).get_run(run_id).info.status == "FINISHED"
    assert "model/model.skops" in files_in(old_server, run_id, "model")
