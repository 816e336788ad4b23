"""src/dagshub_run.py, as a user runs it, on a stand-in of dagshub.com with a real MLflow behind."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial

import pytest
import requests
from dagshub_standin import REPO, TOKEN, USER, DagsHub, check_server, dagshub_run, settings
from guests import ROWS, answers
from mlflow import MlflowClient
from running import ROOT, at_once, clone_with_remote, run, run_script
from sentences import assert_one_sentence, assert_success
from services import ENV, WITHOUT_JOBS, Server, free_port
from stores import assert_loads_elsewhere

SCRIPT = ROOT / "src" / "dagshub_run.py"
LOOKED_UP = ["GET /api/v1/user", f"GET /api/v1/repos/{REPO}"]
INIT = [f"GET /api/v1/repos/{REPO}", "GET /api/v1/user"]


def on_a_terminal(folder, host, **env):
    """Run the script on a terminal where nobody types; return its exit code and its text."""
    import pty  # Windows has none

    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, SCRIPT],
        cwd=folder,
        env=ENV | settings(folder, host, **env),
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    patience = threading.Timer(60, process.kill)
    patience.start()
    text = b""
    with suppress(OSError):  # Linux's way to say that the other end is closed
        while piece := os.read(ours, 10_000):
            text += piece
    patience.cancel()
    os.close(ours)
    assert not (folder / "browser").exists()
    return process.wait(), text.decode().replace("\r", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("mlflow"), "server", "--workers", "1", **WITHOUT_JOBS)
    yield server
    server.stop()


@pytest.fixture
def site(server):
    with DagsHub(server.uri) as site:
        yield site


def test_run_on_dagshub(server, site, tmp_path):
    """From a clone whose remote holds the token, as `git clone https://USER:TOKEN@` leaves it."""
    clone = tmp_path / "clone"
    clone.mkdir()
    clone_with_remote(clone, f"https://{USER}:{TOKEN}@dagshub.com/{REPO}.git")
    with (clone / "src" / "dagshub_run.py").open("a") as script:
        script.write("print(matrix.ax_.get_title(), matrix.confusion_matrix.tolist())\n")

    result = dagshub_run(tmp_path, site.host, clone)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"Accessing as {USER}\n" in result.stdout
    assert f"See them: open {site.host}/{REPO}.mlflow\n" in result.stdout
    assert "test_accuracy: 0.9444\n" in result.stdout
    assert "repeats 18 of 18 predictions\n" in result.stdout
    *_, named, address, next_step, picture = result.stdout.splitlines()
    # One wine of class 1 is taken for class 2: rows are true, columns are predicted.
    assert picture == "1 of 18 test wines wrong [[7, 0, 0], [0, 6, 1], [0, 0, 4]]"
    assert next_step.startswith(f"Next: share {site.host}/{REPO},")
    assert site.asked[:4] == LOOKED_UP + INIT
    assert not [asked for asked in site.asked if asked.startswith("POST /api/v1/")]

    client = MlflowClient(server.uri)
    logged = client.get_run(re.fullmatch(r'Run "forest of 50", ID (\w+)', named)[1])
    assert logged.info.status == "FINISHED"
    place = f"#/experiments/{logged.info.experiment_id}/runs/{logged.info.run_id}"
    assert address == f"{site.host}/{REPO}.mlflow/{place}"
    assert client.get_experiment(logged.info.experiment_id).name == "dagshub-run"
    assert logged.data.params == {"n_estimators": "50", "max_depth": "5", "random_state": "42"}
    assert logged.data.metrics == {"test_accuracy": pytest.approx(17 / 18)}
    tags = logged.data.tags
    assert (tags["dataset"], tags["purpose"]) == ("wine", "hosted run")
    assert tags["mlflow.runName"] == "forest of 50"
    assert tags["mlflow.source.git.repoURL"] == f"https://dagshub.com/{REPO}.git"
    files = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert files == {"confusion_matrix.png", "dagshub_run.py", "model"}
    model = {file.path for file in client.list_artifacts(logged.info.run_id, "model")}
    assert {"model/MLmodel", "model/model.skops", "model/requirements.txt"} <= model
    assert not [name for name in model if name.endswith(".pkl")]
    assert_loads_elsewhere(client.download_artifacts(logged.info.run_id, "model", tmp_path))

    stored = [path for path in server.log.parent.rglob("*") if path.is_file()]
    assert {"mlflow.db", "model.skops"} <= {path.name for path in stored}
    assert not [path for path in stored if TOKEN.encode() in path.read_bytes()]


@pytest.mark.ci
def test_other_lessons_run_there_with_what_init_sets(server, site, tmp_path):
    """And MLflow's own pages open there."""
    owner, name = REPO.split("/")
    code = (
        f"import dagshub; dagshub.init(repo_owner={owner!r}, repo_name={name!r}, mlflow=True)\n"
        "import json, os\n"
        "print(json.dumps({k: v for k, v in os.environ.items() if 'MLFLOW_TRACKING' in k}))"
    )
    done = run([sys.executable, "-c", code], tmp_path, **settings(tmp_path, site.host))
    env = json.loads(done.stdout.splitlines()[-1])
    address = f"{site.host}/{REPO}.mlflow"
    assert env == {
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": TOKEN,
    }
    result = run_script("basic_run", tmp_path, **env)
    assert (result.returncode, result.stderr) == (0, "")
    run_id = re.search(r"ID (\w+)", result.stdout)[1]
    logged = MlflowClient(server.uri).get_run(run_id)
    assert (logged.info.status, len(logged.outputs.model_outputs)) == ("FINISHED", 1)

    asked, lessons = answers(assert_success(check_server(tmp_path, site)))
    assert {asked[row] for row in ROWS} == {"yes"}
    assert (lessons["basic_run"], lessons["dagshub_run"]) == ("yes", "yes")

    with requests.Session() as browser:
        browser.auth = USER, TOKEN
        page = browser.get(address, timeout=30)
        files = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page.text)
        assert files
        for file in files:
            assert browser.get(f"{page.url}{file}", timeout=30).ok, file
    assert requests.get(address, timeout=30).status_code == 401


@pytest.mark.ci
def test_address_without_its_end_is_a_page_of_the_site(tmp_path):
    with DagsHub() as site:
        result = run_script("basic_run", tmp_path, MLFLOW_TRACKING_URI=f"{site.host}/{REPO}")
    assert_one_sentence(result, "response body was not in a valid JSON format", longest=500)


@pytest.mark.ci
def test_what_is_missing_or_malformed_is_said_before_anybody_is_asked(tmp_path):
    address = f"https://{USER}:{TOKEN}@dagshub.com/{REPO}.git"
    repo, token = "Set DAGSHUB_REPO to owner/name: ada/wine for http", "Set DAGSHUB_USER_TOKEN to a"
    cases = [
        ({"DAGSHUB_REPO": None}, repo),
        ({"DAGSHUB_REPO": address}, repo),
        ({"DAGSHUB_REPO": f"{REPO}.mlflow"}, repo),
        ({"DAGSHUB_USER_TOKEN": None}, token),
        ({"DAGSHUB_USER_TOKEN": f"{TOKEN}\n"}, token),  # httpx would print it with the error
    ]
    with DagsHub() as site:
        results = at_once(*(partial(dagshub_run, tmp_path, site.host, **env) for env, _ in cases))
    for result, (_, words) in zip(results, cases, strict=True):
        assert_one_sentence(result, words)
    assert not site.asked


def assert_none_is_made(site):
    """The SITE was asked, and nothing was written there."""
    assert site.asked
    assert {request.split()[0] for request in site.asked} == {"GET"}


def test_a_wrong_token(tmp_path):
    wrong = "wr0ng-token"
    with DagsHub() as site:
        result = dagshub_run(tmp_path, site.host, DAGSHUB_USER_TOKEN=wrong)
    assert_one_sentence(result, "not valid; look at", f"{site.host}/user/settings/tokens")
    assert wrong not in result.stdout + result.stderr
    assert_none_is_made(site)


@pytest.mark.ci
def test_a_missing_repo(tmp_path):
    with DagsHub() as site:
        result = dagshub_run(tmp_path, site.host, DAGSHUB_REPO="ada/no")
    assert_one_sentence(result, f"no repo ada/no: make it at {site.host}/repo/create")
    assert_none_is_made(site)


@pytest.mark.ci
def test_a_site_that_is_busy_or_away(tmp_path):
    with DagsHub(refuse={f"/repos/{REPO}": 503}) as busy:
        result = dagshub_run(tmp_path, busy.host)
    assert_one_sentence(result, "Got status code 503")
    assert_none_is_made(busy)
    result = dagshub_run(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert_one_sentence(result, "Connection refused; look at your network")


@pytest.mark.ci
def test_a_site_that_never_answers(tmp_path):
    waited = []

    def accept():
        """Time how long each client waits."""
        with suppress(OSError):  # closed
            while True:
                client, _ = silent.accept()
                began = time.monotonic()
                with client, suppress(ConnectionError):
                    while client.recv(10_000):
                        pass
                waited.append(time.monotonic() - began)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        listener = threading.Thread(target=accept)
        listener.start()
        result = dagshub_run(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        silent.shutdown(socket.SHUT_RDWR)
        listener.join()
    assert_one_sentence(result, "timed out; look at your network")
    assert 5 < sum(waited) < 20  # dagshub's own limit is 30 s


@pytest.mark.ci
def test_who_may_only_read_is_told_so(server, tmp_path):
    with DagsHub(server.uri, refuse={"/create": 403}) as site:
        result = dagshub_run(tmp_path, site.host)
        asked, lessons = answers(assert_success(check_server(tmp_path, site)))
    assert result.returncode == 1
    assert "failed with error code 403" in result.stderr.splitlines()[-1]
    assert asked["experiments"] == asked["registry"] == "not allowed"
    assert lessons["dagshub_run"].startswith("no, without ")


@pytest.mark.ci
def test_on_a_terminal_nothing_is_asked_either(site, tmp_path):
    allowed = partial(on_a_terminal, tmp_path, site.host)
    (code, text), (good, whole) = at_once(partial(allowed, DAGSHUB_USER_TOKEN=None), allowed)
    assert (code, text.count("\n")) == (1, 1), text
    assert good == 0, whole
    assert "\nNext: " in whole
    assert TOKEN not in whole
