"""check_server tells what a server can do, also of one that refuses, waits or is old."""

import re
import sys
import threading
import time

import pytest
import requests
from connecting import forwarding
from guests import ROWS, answers
from mlflow import MlflowClient
from mlflow.artifacts import list_artifacts
from mlflow.entities import ViewType
from patched import before, run_patched
from running import LESSONS, PYTHON, ROOT, run, run_script, uri
from sentences import assert_success
from services import WITHOUT_JOBS, Server, free_port


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


# Which calls are refused, by the row that says so, and the rows that are not asked then. A call is
# told by its beginning and by what its body holds.
API = "/api/2.0/mlflow"
REFUSED = {
    "what no other row needs": (
        {
            "version": ("GET /version", b""),
            "searches": (f"POST {API}/runs/search", b"tags.a"),
            "nested runs": (f"POST {API}/runs/create", b"mlflow.parentRunId"),
            "dataset inputs": (f"POST {API}/runs/log-inputs", b""),
            "files down": (f"GET {API}-artifacts/artifacts", b""),
            "logged models": (f"POST {API}/logged-models", b""),
            "restore": (f"POST {API}/experiments/restore", b""),
            "aliases": (f"POST {API}/registered-models/alias", b""),
            "tags": (f"POST {API}/model-versions/set-tag", b""),
        },
        [],
    ),
    "log_batch": ({"log_batch": (f"POST {API}/runs/log-batch", b"")}, []),
    "files up": ({"files up": (f"PUT {API}-artifacts/artifacts", b"")}, ["files down"]),
    "versions": ({"versions": (f"POST {API}/model-versions/create", b"")}, ["aliases", "tags"]),
    "registry": (
        {"registry": (f"POST {API}/registered-models/create", b"")},
        ["versions", "aliases", "tags"],
    ),
    "all of the registry": (
        {"registry": (f"POST {API}/registered-models", b""), "": (f"GET {API}/registered", b"")},
        ["versions", "aliases", "tags"],
    ),
    "runs": (
        {"runs": (f"POST {API}/runs/create", b"")},
        [*ROWS[2:8], "versions", "aliases", "tags"],
    ),
    "experiments": (
        {"experiments": (f"POST {API}/experiments/create", b"")},
        [*ROWS[1:11], "versions", "aliases", "tags"],
    ),
    "removal of models": ({"removed again": (f"DELETE {API}/registered-models", b"")}, []),
    "removal of experiments": (
        dict.fromkeys(["delete", "removed again"], (f"POST {API}/experiments/delete", b"")),
        ["restore"],
    ),
}
LEFT = {"removal of models": ["RegisteredModel"], "removal of experiments": ["Experiment"]}
# Quick lessons that are run while the calls of a row are refused: one stops, and another doesn't.
TRIED = {
    "version": ["log_dataset"],
    "searches": ["select_experiment", "log_dataset"],
    "dataset inputs": ["log_dataset", "select_experiment"],
    "files down": ["custom_model", "basic_run"],
    "logged models": ["log_dataset"],
    "restore": ["select_experiment", "log_dataset"],
    "tags": ["custom_model"],
    "log_batch": ["basic_run", "select_experiment"],
    "files up": ["basic_run", "log_dataset"],
    "versions": ["custom_model"],
    "runs": ["select_experiment"],
}


@pytest.mark.ci
@pytest.mark.parametrize("case", REFUSED)
def test_calls_that_the_server_refuses(case, server, tmp_path):
    """It says so by status 403, and in its own words by 404. Then a lesson does as it was told."""
    calls, unasked = REFUSED[case]
    client = MlflowClient(server, registry_uri=server)

    def refusing(calls, status):
        def answer(call, body):
            if any(f"{call} ".startswith(begins) and part in body for begins, part in calls):
                return status, b"the words of the server"

        return forwarding(server, answer)

    for status, words in (
        (403, "not allowed"),
        (404, "no: .*(the words of the server|404 Client Error).*"),
    ):
        with refusing(calls.values(), status) as proxy:
            result = run_script("check_server", tmp_path, MLFLOW_TRACKING_URI=proxy)
        asked, lessons = answers(assert_success(result))
        refused = calls.keys() & asked.keys()
        assert [row for row in refused if not re.fullmatch(words, asked[row])] == []
        assert [row for row in asked if asked[row].startswith("not asked: it needs ")] == unasked
        others = asked.keys() - refused - {"version", *unasked}
        assert {asked[row] for row in others} == {"yes"}
        # What it may remove is removed, whatever else fails.
        left = left_in(client)
        assert [type(each).__name__ for each in left] == LEFT.get(case, [])
        for each in left:
            if case == "removal of models":
                client.delete_registered_model(each.name)
            else:
                client.delete_experiment(each.experiment_id)

    for row in sorted(refused & TRIED.keys()):
        with refusing([(calls[row][0], b"")], 403) as proxy:
            for name in TRIED[row]:
                result = run_script(name, tmp_path, MLFLOW_TRACKING_URI=proxy)
                lacking = lessons[name].removeprefix("no, without ").split(", ")
                assert (result.returncode != 0) == (row in lacking), (row, name, result.stderr)


@pytest.mark.ci
def test_a_server_that_answers_a_call_never(server, folder):
    """One question is given up after its time, and after the time for all few others are asked."""

    def wait(call, body):
        time.sleep(4 if call.endswith("log-batch") else 0)

    (folder / "src").mkdir()
    text = (ROOT / "src" / "check_server.py").read_text()
    assert text.count('", 8, 15  # seconds') == 1
    script = folder / "src" / "check_server.py"
    script.write_text(text.replace('", 8, 15  # seconds', '", 3, 3  # seconds'))
    with forwarding(server, wait) as proxy:
        env = {"MLFLOW_TRACKING_URI": proxy, "PYTHONPATH": str(ROOT / "src")}
        asked, _ = answers(assert_success(run([PYTHON, script], folder, **env)))
    assert asked["log_batch"] == "no: no answer within 3 seconds"
    late = [row for row in ROWS[3:15] if row != "registry"]
    assert {asked[row] for row in late} == {"not asked: it needs more time"}
    assert (asked["registry"], asked["removed again"]) == ("yes", "yes")
    assert left_in(MlflowClient(server, registry_uri=server)) == []


@pytest.mark.ci
def test_after_ctrl_c_nothing_is_left(folder):
    deed = "os.kill(os.getpid(), 2); __import__('time').sleep(2)"
    patch = before("MlflowClient.set_model_version_tag", deed)
    result = run_patched("check_server", patch, folder)
    assert result.returncode == -2
    assert "removed again       yes\n" in result.stdout
    assert left_in(MlflowClient(uri(folder), registry_uri=uri(folder))) == []


@pytest.mark.ci
def test_after_ctrl_c_not_even_what_the_server_makes_later(server, folder):
    made = threading.Event()

    def slow(call, body):
        if call == f"POST {API}/experiments/create":
            time.sleep(3)
            headers = {"Content-Type": "application/json"}
            reply = requests.post(server + call.split()[1], body, headers=headers)
            made.set()
            return reply.status_code, reply.content

    deed = "__import__('threading').Timer(1, os.kill, (os.getpid(), 2)).start()"
    patch = before("MlflowClient.create_experiment", deed)
    with forwarding(server, slow) as proxy:
        result = run_patched("check_server", patch, folder, MLFLOW_TRACKING_URI=proxy)
        assert made.wait(30)
    assert result.returncode == -2
    assert left_in(MlflowClient(server, registry_uri=server)) == []


def own_tests(server, *names):
    """Run the tests of these lessons on the SERVER as CONTRIBUTING.md says; return the process."""
    files = [f"tests/test_{name}.py" for name in names]
    options = ["-m", "", "-p", "no:cacheprovider", "--server", server]
    return run([sys.executable, "-m", "pytest", *options, *files], ROOT)


@pytest.mark.ci
def test_the_lessons_own_tests_on_a_given_server(server):
    """Some run, some are skipped and say why, and then nothing of them is left."""
    client = MlflowClient(server, registry_uri=server)
    if not client.get_experiment_by_name("log-dataset"):
        client.create_experiment("log-dataset")
    before = {each.name for each in client.search_experiments()}

    def refuse(call, body):
        if call.startswith(f"POST {API}/runs/search") and b"tags.a" in body:
            return 403, b""

    with forwarding(server, refuse) as proxy:
        result = own_tests(proxy, "autolog", "reproduce_run", "log_dataset", "tracking")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\b2 passed, 4 skipped, \d+ deselected", result.stdout)
    assert "SKIPPED [1] tests/test_reproduce_run.py:" in result.stdout
    assert ": searches: not allowed\n" in result.stdout
    assert ": log-dataset on this server would get other runs\n" in result.stdout
    found = {each.name: each for each in client.search_experiments(ViewType.ALL)}
    (name,) = [name for name in found if re.fullmatch(r"tested-\d+-autolog", name)]
    assert found[name].lifecycle_stage == "deleted"
    assert not list_artifacts(artifact_uri=found[name].artifact_location, tracking_uri=server)
    active = {name for name in found if found[name].lifecycle_stage == "active"}
    assert active == before and "autolog" not in found
    assert left_in(client) == []


@pytest.mark.ci
def test_a_given_server_that_can_t_be_used(server):
    dead = f"http://127.0.0.1:{free_port()}"
    result = own_tests(dead, "basic_run")
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.startswith(f"ERROR: Can't use MLFLOW_TRACKING_URI={dead}: ")
    assert result.stderr.strip().count("\n") == 0

    client = MlflowClient(server, registry_uri=server)
    keeping = f"POST {API}/experiments/delete"
    with forwarding(server, lambda call, _: (403, b"") if call == keeping else None) as proxy:
        result = own_tests(proxy, "basic_run")
    assert (result.returncode, result.stdout) == (4, "")
    told = f"ERROR: {proxy} would keep what the tests make: not allowed"
    assert result.stderr.strip() == told
    (experiment,) = left_in(client)  # the script has said so
    client.delete_experiment(experiment.experiment_id)
