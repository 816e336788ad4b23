"""What docs/reference/troubleshooting.md shows and a page's own test can't run."""

import os
import re
import ssl
import subprocess
import sys
import time

import pytest
from connecting import answering, connecting
from doc_tables import blocks, codes, tables, text_of
from running import AS_ROOT, make_repo, run, uri
from sentences import assert_one_sentence

pytestmark = [pytest.mark.ci, pytest.mark.facts]
PAGE = text_of("troubleshooting.md")
LOG = """
import mlflow
with mlflow.start_run() as run:
    pass
print("commit:", mlflow.get_run(run.info.run_id).data.tags.get("mlflow.source.git.commit"))
"""


def logged(folder, **env):
    """Log a run by a script in FOLDER; return what it printed."""
    (folder / "log.py").write_text(LOG)
    done = run([sys.executable, "log.py"], folder, MLFLOW_TRACKING_URI=uri(folder), **env)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_what_the_reader_saves_is_what_the_page_runs():
    (saved,) = re.findall(r"cat > forest.py <<'END'\n(.*?)END\n", PAGE, re.DOTALL)
    assert saved in blocks("troubleshooting.md", "python", "## Untrusted types")


def test_every_heading_is_in_the_table_of_contents_once():
    contents, _ = PAGE.split("\n## ", 1)
    text = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sorted(re.findall(r"^- \[(.*)\]\(#", contents, re.MULTILINE)) == sorted(headings)


def test_the_form_that_ends_a_script_leaves_an_editor(tmp_path):
    (command,) = blocks("troubleshooting.md", "bash", "## A script doesn't end")
    name = f"stuck{os.getpid()}"
    script = tmp_path / "src" / f"{name}.py"
    script.parent.mkdir()
    script.write_text("import time\ntime.sleep(60)\n")
    words = [sys.executable, f"src/{name}.py"]
    stuck = subprocess.Popen(words, cwd=tmp_path)
    editor = subprocess.Popen([f"vim src/{name}.py", "60"], executable="/bin/sleep")
    time.sleep(1)  # until both are what they are called
    assert run(["bash", "-c", command.replace("hypertune3", name)], tmp_path).returncode == 0
    assert stuck.wait(10) == -9
    assert editor.poll() is None
    editor.kill()
    editor.wait()


def test_without_git_a_run_lacks_only_the_commit(folder):
    # "raise" is what GitPython does if the variable is not set.
    output, error = logged(folder, PATH=str(folder / "empty"), GIT_PYTHON_REFRESH="raise")
    assert output == "commit: None\n"
    assert "Failed to initialize: Bad git executable" in error
    output, error = logged(folder, PATH=str(folder / "empty"), GIT_PYTHON_REFRESH="quiet")
    assert output == "commit: None\n"
    assert "git" not in error.lower()


@pytest.mark.ci
@pytest.mark.facts
@pytest.mark.parametrize(("value", "bars"), [("true", True), ("false", False)])
def test_with_tqdm_a_download_shows_a_bar_unless_a_variable_says_no(value, bars, folder):
    """MLflow's default is true."""
    code = "import mlflow; mlflow.artifacts.download_artifacts('source', dst_path='copy')"
    (folder / "source").mkdir()
    (folder / "source" / "file").touch()
    env = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": value}
    result = run([sys.executable, "-c", code], folder, **env)
    assert result.returncode == 0
    assert ("Downloading artifacts: 100%" in result.stderr) == bars
    assert result.stderr == "" or bars


@pytest.mark.skipif(
    not AS_ROOT,
    reason="only root can give a folder to another user",
)
def test_a_repo_of_another_user_has_no_commit_until_git_trusts_it(folder):
    (command,) = blocks("troubleshooting.md", "bash", "## detected dubious ownership")
    home = {"HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    (folder / "log.py").write_text(LOG)
    make_repo(folder)
    assert re.match("commit: [0-9a-f]{40}\n", logged(folder, **home)[0])
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 65534, 65534)
    output, error = logged(folder, **home)
    assert output == "commit: None\n" and "ownership" not in error
    said = run(["git", "status"], folder, **home).stderr
    assert "detected dubious ownership in repository" in said
    trusted = command.replace("/path/to/the/repo", str(folder))
    assert run(["bash", "-ec", trusted], folder, **home).returncode == 0
    assert re.match("commit: [0-9a-f]{40}\n", logged(folder, **home)[0])


SHADOWED = {
    # What a reader's own file holds and what is run then, by what is seen.
    "partially initialized module 'mlflow' has no attribute 'set_experiment'": (
        "mlflow.py",
        "import mlflow\nmlflow.set_experiment('mine')",
        ["mlflow.py"],
    ),
    "No module named 'mlflow.exceptions'": (
        "mlflow/__init__.py",
        "",
        ["-c", "from mlflow.exceptions import MlflowException"],
    ),
    "No module named 'mlflow.server'; 'mlflow' is not a package": (
        "mlflow.py",
        "",
        ["-c", "import mlflow.server"],
    ),
}


@pytest.mark.parametrize("says", SHADOWED)
def test_a_file_of_the_same_name_is_imported_instead(says, tmp_path):
    file, code, command = SHADOWED[says]
    assert f"- `{says}`, if" in PAGE
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(code)
    result = run([sys.executable, *command], tmp_path)
    assert result.returncode == 1 and says in result.stderr


PLACES = {
    code for row in tables("troubleshooting.md")["The place for the runs"] for code in codes(row[0])
}


def assert_said(words, folder, uri, **env):
    """connect() says these words of the place, or those after a bar; the page has all."""
    assert set(words.split("|")) <= PLACES
    sentence = assert_one_sentence(connecting(uri, folder, **env), longest=500)
    assert any(each in sentence for each in words.split("|")), sentence


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (401, b"no", "failed with error code 401"),
        (403, b"", "Response body: ''"),
        (404, b"no", "failed with error code 404"),
        (200, b"<html>", "response body was not in a valid JSON format"),
        (500, b"", "too many 500 error responses"),
        (502, b"", "too many 502 error responses"),
        (503, b"", "too many 503 error responses"),
    ],
)
def test_what_connect_says_of_a_servers_answer(code, body, words, tmp_path):
    with answering(lambda path: (code, body)) as port:
        assert_said(words, tmp_path, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("code", [403, 407, 502, 503])
def test_what_connect_says_of_a_proxy(code, tmp_path):
    with answering(lambda path: (code, b"")) as port:
        proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://127.0.0.1:{port}")
        proxies |= {"NO_PROXY": "", "no_proxy": ""}
        words = f"Tunnel connection failed: {code}"
        assert_said(words, tmp_path, "https://mlflow.example.com", **proxies)


def test_what_connect_says_of_tls(tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other.example.com"
    command += f" -addext subjectAltName=DNS:other.example.com -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    (tmp_path / "empty.pem").touch()
    with answering(lambda path: (200, b""), context=context) as port:
        https = f"https://localhost:{port}"
        file = "MLFLOW_TRACKING_SERVER_CERT_PATH"
        assert_said("self-signed certificate", tmp_path, https)
        assert_said("Hostname mismatch", tmp_path, https, **{file: str(certificate)})
        assert_said("NO_CERTIFICATE_OR_CRL_FOUND", tmp_path, https, **{file: "empty.pem"})
        missing = "Could not find a suitable TLS CA certificate bundle"
        assert_said(missing, tmp_path, https, **{file: "missing.pem"})
        plain = f"http://localhost:{port}"
        # Which of them is a matter of moments.
        words = "Remote end closed connection without response|Connection reset by peer"
        assert_said(words, tmp_path, plain)
    with answering(lambda path: (200, b"")) as port:
        assert_said("WRONG_VERSION_NUMBER", tmp_path, f"https://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://127.0.0.1:1", "[Errno 111] Connection refused"),
        ("sqlite:mlflow.db", "Could not parse SQLAlchemy URL"),
        ("sqlite://mlflow.db", "Invalid SQLite URL"),
        ("postgres://127.0.0.1/runs", "got unsupported URI"),
        ("sqlite:///a-folder", "unable to open database file"),
        ("sqlite:///a-text.db", "file is not a database"),
        ("sqlite:////proc/none/mlflow.db", "No such file or directory"),
    ],
)
def test_what_connect_says_of_an_address(uri, words, tmp_path):
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "a-text.db").write_text("text " * 1000)
    assert_said(words, tmp_path, uri)
