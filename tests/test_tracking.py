import http.server
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import pytest
from mlflow import MlflowClient
from running import ENV, PYTHON, ROOT, run
from sentences import assert_one_sentence
from services import free_port

LESSON = "import mlflow; from tracking import connect; connect(); "


def connecting(uri, cwd, code="", **env):
    """Run connect() and then CODE in a new process."""
    env |= {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": uri}
    began = time.monotonic()
    result = run([PYTHON, "-c", LESSON + code], cwd, timeout=120, **env)
    result.seconds = time.monotonic() - began
    return result


def assert_refused(result, *words):
    """connect() said in one sentence which URI can't be used."""
    sentence = assert_one_sentence(result, *words)
    assert sentence.startswith("Can't use MLFLOW_TRACKING_URI=")


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("127.0.0.1:5000", "write http:// before it"),
        ("localhost:5000", "write http:// before it"),
        ("htp://127.0.0.1:5000", "unknown scheme"),
        ("mongodb://host/db", "unknown scheme"),
        ("sqlite:x.db", "three slashes"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        (r"C:\mlruns", "write sqlite:///C:/folder/mlflow.db"),
        ("http://", "no server answers"),
    ],
)
def test_malformed_uri(uri, advice, tmp_path):
    assert_refused(connecting(uri, tmp_path), uri, advice, "unset it to use this repo's mlflow.db")
    assert not list(tmp_path.iterdir())


def test_dead_port(tmp_path):
    result = connecting(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert_refused(result, "no server answers there, start it")
    assert result.seconds < 30  # MLflow alone: 246 s


def test_port_that_never_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = connecting(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
    assert_refused(result, "it accepts calls and doesn't answer")
    assert result.seconds < 45  # MLflow alone: 20 minutes


@contextmanager
def answering(answer, kind="text/html"):
    """An HTTP server that answers a path by the (status, body) that ANSWER(path) returns."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (200, b"<html>hello</html>", "what answers isn't MLflow"),
        (404, b"not found", "what answers isn't MLflow"),
        (401, b"who are you?", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, b"Invalid Host header", "this user or host name isn't allowed"),
        (503, b"busy", "the server fails with HTTP 503"),
    ],
)
def test_server_that_refuses(status, body, advice, tmp_path):
    with answering(lambda path: (status, body)) as uri:
        result = connecting(uri, tmp_path)
    assert_refused(result, advice)
    assert result.seconds < 30


def test_server_older_than_mlflow_3(tmp_path):
    """MLflow 2 answers a search for experiments, and 404 to one for logged models."""

    def old(path):
        found = path.endswith("/experiments/search")
        return (200, b'{"experiments": []}') if found else (404, b"Not Found")

    with answering(old, "application/json") as uri:
        result = connecting(uri, tmp_path)
    assert_refused(result, "older than MLflow 3, upgrade it")


@pytest.mark.parametrize(
    "address",
    [
        "http://ada:s3cret@127.0.0.1:{}",
        "http://ada:s3cret/#1@127.0.0.1:{}",
        "ada:s3cret@127.0.0.1:{}",
        "postgresql+psycopg://127.0.0.1:{}/x?password=s3cret",
    ],
)
def test_password_is_not_shown(address, tmp_path):
    result = connecting(address.format(free_port()), tmp_path)
    assert "s3cret" not in result.stdout + result.stderr
    assert_refused(result)


def test_an_address_with_an_at_sign_and_no_password_is_shown_whole(tmp_path):
    result = connecting("sqlite:///a@b.db", tmp_path)
    assert "Runs go to sqlite:///a@b.db\n" in result.stdout


def test_a_proxy_that_is_dead_is_named(tmp_path):
    result = connecting(
        "http://example.com", tmp_path, HTTP_PROXY=f"http://127.0.0.1:{free_port()}"
    )
    assert_refused(result, "the proxy doesn't answer, correct HTTP_PROXY")


def test_in_a_thread_and_beside_a_pool_of_processes(tmp_path):
    """Signals are the main thread's; and a pool ends its workers by SIGTERM."""
    code = """
        import multiprocessing, threading
        threading.Thread(target=connect).start()
        connect()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(abs, [-1, -2]))
    """
    result = connecting(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, "\n" + textwrap.dedent(code))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("[1, 2]\n")


def test_a_run_begun_without_with_is_failed_too(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = "mlflow.start_run(); mlflow.log_param('depth', 1); mlflow.log_param('depth', 2)"
    result = connecting(uri, tmp_path, code)
    assert result.stderr.startswith("MLflow refused: ")
    assert_failed_run_is_kept(uri)


def test_only_calls_to_mlflow_are_called_the_servers(tmp_path):
    """And what others log of their calls isn't silenced."""
    code = """
        import logging, urllib3
        logging.basicConfig(level=logging.WARNING)
        try:
            urllib3.PoolManager(retries=urllib3.Retry(1)).request("GET", "http://127.0.0.1:9/x")
        except urllib3.exceptions.MaxRetryError:
            pass
    """
    with answering(lambda path: (200, b"{}"), "application/json") as uri:
        result = connecting(uri, tmp_path, "\n" + textwrap.dedent(code))
    assert result.returncode == 0, result.stderr
    assert "The server doesn't answer" not in result.stderr
    assert "Retrying" in result.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs Linux's /proc")
@pytest.mark.parametrize("uri", ["sqlite:////proc/mlflow.db", "/proc/mlruns"])
def test_folder_that_cannot_be_written(uri, tmp_path):
    result = connecting(uri, tmp_path)
    assert_refused(result, uri)
    assert result.seconds < 30  # MLflow alone: 103 s


def test_file_in_the_way(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but a file of some length" * 100)
    assert_refused(connecting("sqlite:///notes.txt", tmp_path), "file is not a database")
    assert_refused(connecting("notes.txt", tmp_path), "Not a directory")


@pytest.mark.parametrize("uri", ["runs", "http-runs", "file:runs"])
def test_folder_works_with_a_word_of_warning(uri, tmp_path):
    folder = tmp_path / uri.removeprefix("file:")
    result = connecting(folder.as_uri() if uri.startswith("file:") else uri, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "docs/older-tutorials.md" in result.stdout
    assert (folder / "0" / "meta.yaml").exists()


def assert_failed_run_is_kept(uri):
    (logged,) = MlflowClient(uri).search_runs(["0"])
    assert (logged.info.status, logged.data.params) == ("FAILED", {"depth": "1"})


def test_error_inside_a_run_keeps_what_was_logged(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = """
        with mlflow.start_run():
            mlflow.log_param("depth", 1)
            mlflow.log_param("depth", 2)
    """
    result = connecting(uri, tmp_path, "\n" + textwrap.dedent(code))
    assert result.returncode == 1
    assert result.stderr.startswith("MLflow refused: ")
    assert "Traceback" not in result.stderr
    assert_failed_run_is_kept(uri)


def test_ctrl_c_inside_a_run_keeps_what_was_logged(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = """
        import time
        with mlflow.start_run():
            mlflow.log_param("depth", 1)
            print("logged", flush=True)
            time.sleep(60)
    """
    env = ENV | {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": uri}
    process = subprocess.Popen(
        [sys.executable, "-c", LESSON + "\n" + textwrap.dedent(code)],
        cwd=tmp_path,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while "logged" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert error == "Interrupted; an open run is marked FAILED, what it logged is kept\n"
    assert_failed_run_is_kept(uri)


@pytest.mark.parametrize(("switched_off", "client"), [("true", "None"), ("false", "Telemetry")])
def test_telemetry_can_be_switched_off(switched_off, client, tmp_path):
    code = "from mlflow.telemetry import get_telemetry_client as get; print(get())"
    # In the tests of some CI systems MLflow sends nothing anyway.
    env = {k: v for k, v in ENV.items() if k not in ("CI", "GITHUB_ACTIONS")}
    env |= {"MLFLOW_DISABLE_TELEMETRY": switched_off, "MLFLOW_TRACKING_URI": "sqlite:///x.db"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert client in result.stdout, result.stderr
