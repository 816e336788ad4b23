"""check_server tells what a server can do, also of one that refuses, waits or is old."""

import re
import time

import pytest
from connecting import forwarding
from mlflow import MlflowClient
from mlflow.entities import ViewType
from patched import before, run_patched
from running import LESSONS, PYTHON, ROOT, run, run_script, uri
from sentences import assert_success
from services import WITHOUT_JOBS, Server

ROWS = ["experiments", "runs", "log_batch", "searches", "nested runs", "dataset inputs"]
ROWS += ["files up", "files down", "logged models", "delete", "restore"]
ROWS += ["registry", "versions", "aliases", "tags", "removed again"]


def answers(output):
    """The answers that the script prints: by question, and by lesson."""
    words = "|".join(["version", *ROWS])
    asked = dict(re.findall(rf"^({words}) +(.+)$", output, re.MULTILINE))
    lessons = {}
    for names, answer in re.findall(r"^([\w, ]+): (yes|no, without .*)$", output, re.MULTILINE):
        lessons |= dict.fromkeys(names.split(", "), answer)
    return asked, lessons


def left_in(client):
    """The experiments and registered models of the script that nobody has removed."""
    own = "name LIKE 'check-server-%'"
    return [*client.search_experiments(filter_string=own), *client.search_registered_models(own)]


def test_a_store_that_does_all(store):
    asked, lessons = answers(store.run("check_server"))
    assert ("version" in asked) == store.uri.startswith("http")
    assert re.fullmatch(r"\d+\.\d+\.\d+", asked.pop("version", "3.0.0"))
    assert asked == dict.fromkeys(ROWS, "yes")
    assert set(lessons) == {path.stem for path in LESSONS} - {"check_server", "hypertune1"}
    assert set(lessons.values()) == {"yes"}
    assert left_in(store.client) == []
    deleted = store.client.search_experiments(ViewType.DELETED_ONLY)
    assert len([each for each in deleted if each.name.startswith("check-server-")]) == 1
    assert not list(store.folder.rglob("check.txt"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server."""
    server = Server(tmp_path_factory.mktemp("server"), "server", "--workers", "1", **WITHOUT_JOBS)
    yield server.uri
    server.stop()


# How a call begins that is refused, what its body holds, the row, and the rows that are not asked.
REFUSED = [
    ("GET /version", b"", "version", []),
    ("POST /api/2.0/mlflow/experiments/create", b"", "experiments", ROWS[1:11] + ROWS[12:15]),
    ("POST /api/2.0/mlflow/runs/create", b"", "runs", ROWS[2:8] + ROWS[12:15]),
    ("POST /api/2.0/mlflow/runs/log-batch", b"", "log_batch", ["searches"]),
    ("POST /api/2.0/mlflow/runs/search", b"params.depth", "searches", []),
    ("POST /api/2.0/mlflow/runs/create", b"mlflow.parentRunId", "nested runs", []),
    ("POST /api/2.0/mlflow/runs/log-inputs", b"", "dataset inputs", []),
    ("PUT /api/2.0/mlflow-artifacts/artifacts", b"", "files up", ["files down"]),
    ("GET /api/2.0/mlflow-artifacts/artifacts", b"", "files down", []),
    ("POST /api/2.0/mlflow/logged-models ", b"", "logged models", []),
    ("POST /api/2.0/mlflow/experiments/restore", b"", "restore", []),
    ("POST /api/2.0/mlflow/registered-models/create", b"", "registry", ROWS[12:15]),
    ("POST /api/2.0/mlflow/model-versions/create", b"", "versions", ["aliases", "tags"]),
    ("POST /api/2.0/mlflow/registered-models/alias", b"", "aliases", []),
    ("POST /api/2.0/mlflow/model-versions/set-tag", b"", "tags", []),
]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("begins", "holds", "row", "unasked"), REFUSED, ids=[row[2] for row in REFUSED]
)
def test_a_call_that_the_server_refuses(begins, holds, row, unasked, server, tmp_path):
    def refusing(status):
        answer = status, b"the words of the server"
        return lambda call, body: (
            answer if f"{call} ".startswith(begins) and holds in body else None
        )

    for status, words in (
        (403, "not allowed"),
        (404, "no: .*(the words of the server|404 Client Error).*"),
    ):
        with forwarding(server, refusing(status)) as proxy:
            result = run_script("check_server", tmp_path, MLFLOW_TRACKING_URI=proxy)
        asked, lessons = answers(assert_success(result))
        assert re.fullmatch(words, asked[row])
        assert [each for each in asked if asked[each].startswith("not asked: it needs ")] == unasked
        others = {each for each in asked if each not in (row, "version", *unasked)}
        assert {asked[each] for each in others} == {"yes"}
        lacking = [name for name in lessons if row in lessons[name]]
        assert left_in(MlflowClient(server, registry_uri=server)) == []
        if row == "aliases":
            assert lacking == ["register_model", "promote_model", "score_model"]


@pytest.mark.ci
def test_a_server_that_answers_a_call_never(server, folder):
    """One question is given up after its time, and after the time for all no other is asked."""

    def wait(call, body):
        time.sleep(4 if call.endswith("log-batch") else 0)

    (folder / "src").mkdir()
    text = (ROOT / "src" / "check_server.py").read_text()
    script = folder / "src" / "check_server.py"
    script.write_text(re.sub("^ONE, ALL = 8, 30 ", "ONE, ALL = 3, 3 ", text, flags=re.MULTILINE))
    with forwarding(server, wait) as proxy:
        env = {"MLFLOW_TRACKING_URI": proxy, "PYTHONPATH": str(ROOT / "src")}
        asked, _ = answers(assert_success(run([PYTHON, script], folder, **env)))
    assert asked["log_batch"] == "no: no answer within 3 seconds"
    assert asked["searches"] == "not asked: it needs log_batch"
    assert {asked[row] for row in ROWS[4:6]} == {"not asked: it needs more time"}
    assert asked["removed again"] == "yes"
    assert left_in(MlflowClient(server, registry_uri=server)) == []


@pytest.mark.ci
def test_after_ctrl_c_nothing_is_left(folder):
    deed = "os.kill(os.getpid(), 2); __import__('time').sleep(2)"
    patch = before("MlflowClient.set_model_version_tag", deed)
    result = run_patched("check_server", patch, folder)
    assert result.returncode == -2
    assert "removed again       yes\n" in result.stdout
    assert left_in(MlflowClient(uri(folder), registry_uri=uri(folder))) == []
