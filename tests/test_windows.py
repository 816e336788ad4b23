"""The lessons without what Windows lacks, and with what it has: cp1252, CRLF, folders' names."""

import getpass
import re
import sys

import pytest
from dagshub_standin import DagsHub, settings
from filled import copy_before, repo_after, repo_with, words_for
from forks import IMPORTED
from mlflow import MlflowClient
from patched import run_patched, without_connect
from running import LESSONS, PYTHON, ROOT, run, uri
from sentences import assert_success
from services import WITHOUT_JOBS, Server
from stores import contents_without_source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux imitates Windows here")
# dagshub_run isn't among them: it needs a stand-in of the site, see below.
NAMES = [path.stem for path in LESSONS if path.stem != "dagshub_run"]
# What the libraries looked up when they were imported is theirs; a lesson finds it missing.
LACKS = f"""
import os, signal
import {", ".join(IMPORTED)}
for name in '''
    chown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid getpgrp getuid killpg
    mkfifo nice register_at_fork sched_getaffinity setpgid setsid statvfs uname wait3 wait4
'''.split():
    delattr(os, name)
for name in '''
    SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm getitimer pause
    pthread_kill pthread_sigmask setitimer sigwait
'''.split():
    delattr(signal, name)
"""
# One starts processes as Linux does. For the other one psutil asks Linux for the disk's size.
KEPT = {"hypertune3": ["getuid", "pthread_sigmask"], "training_loop": ["statvfs"]}
# Output that goes to a file or a pipe; "?" instead of an error would hide a letter.
CONSOLE = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
# Python asks os.getuid for the user's name only if no variable says it; on Windows this one does.
USER = {"USERNAME": getpass.getuser()}


@pytest.mark.parametrize(
    ("system", "start"),
    [("windows-latest", "py -3 -m venv "), ("macos-latest", "python3 -m venv ")],
)
def test_ci_runs_the_two_commands_of_the_readme(system, start):
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    job = workflow.split(f"runs-on: {system}\n")[1].split("runs-on: ")[0]
    assert f" '^{start}' README.md" in job
    commands = re.findall(rf"^{start}.*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [re.split(r"[ \\/]", each)[-1] for each in commands] == ["hypertune2.py", "pytest"]


def in_documents(tmp_path, name):
    """The repo before the lesson, in a folder and with line ends as on Windows; the variables."""
    folder = tmp_path / "Jürgen" / "My Documents"
    copy_before(folder, name)
    for path in (folder / "src").glob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    temp = tmp_path / "Jürgen" / "Temp"
    temp.mkdir()
    return folder, CONSOLE | USER | dict.fromkeys(["TEMP", "TMP", "TMPDIR"], str(temp))


@pytest.mark.parametrize(
    "name",
    [name if name == "basic_run" else pytest.param(name, marks=pytest.mark.ci) for name in NAMES],
)
def test_a_lesson_needs_nothing_that_windows_lacks(name, tmp_path):
    folder, env = in_documents(tmp_path, name)
    lacks = LACKS
    for kept in KEPT.get(name, []):
        assert kept in lacks
        lacks = lacks.replace(f"{kept} ", "")
    words = words_for(name, folder)
    assert_success(run_patched(name, lacks, folder, *words, root=folder, encoding="cp1252", **env))
    if name == "hypertune1":  # it stores nothing
        assert not (folder / "mlflow.db").exists()
        return
    found = contents_without_source(folder)
    expected = contents_without_source(repo_with(name)[0])
    if name == "hypertune3":  # the tag `code` is of the script's bytes
        for store in found, expected:
            assert [run["tags"].pop("code", 0) for run in store[name][2]]
    assert found == expected


@pytest.mark.ci
def test_a_script_with_windows_line_ends_runs_from_a_folder_with_a_space(tmp_path):
    folder, env = in_documents(tmp_path, "basic_run")
    script = folder / "src" / "basic_run.py"
    assert b"\r\n" in script.read_bytes()
    printed = assert_success(run([PYTHON, script], tmp_path, encoding="cp1252", **env))
    assert f"Runs go to sqlite:///{folder}/mlflow.db\n" in printed
    assert contents_without_source(folder) == contents_without_source(repo_after(["basic_run"]))


@pytest.mark.ci
@pytest.mark.parametrize("temp", ["Jürgen", "ascii"])
def test_joblib_needs_a_temporary_folder_with_an_ascii_name(temp, tmp_path):
    """Elsewhere than on Linux, joblib's own folder is in the user's temporary folder."""
    folder, env = in_documents(tmp_path, "hypertune1")
    env |= {"JOBLIB_TEMP_FOLDER": str(tmp_path / temp)}
    script = folder / "src" / "hypertune1.py"
    script.write_text(script.read_text().replace("cv=5)", "cv=5, n_jobs=2)"))
    result = run([PYTHON, script], folder, encoding="cp1252", **env)
    if temp == "ascii":
        assert_success(result)
    else:
        assert result.returncode == 1
        assert "UnicodeEncodeError: 'ascii' codec can't encode character" in result.stderr


def own_copy(name, folder):
    """A copy of the script without `connect`, in a folder of its own."""
    script = folder / "own" / f"{name}.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(without_connect((ROOT / "src" / script.name).read_text()))
    return script


@pytest.mark.ci
@pytest.mark.parametrize("name", ["basic_run", "autolog", "select_experiment", "log_dataset"])
def test_a_copy_without_the_lines_with_connect_works(name, folder):
    script = own_copy(name, folder)
    result = run([PYTHON, script], script.parent, MLFLOW_TRACKING_URI=uri(folder))
    assert result.returncode == 0, result.stderr
    (experiment,) = [each for each in ends(uri(folder)) if each[0] != "Default"]
    expected = {"autolog": "autolog"}.get(name, name.replace("_", "-"))
    assert experiment[0] == expected
    assert experiment[1] and set(experiment[1]) == {"FINISHED"}


def ends(address):
    """The name of each experiment of the store, and how its runs ended."""
    client = MlflowClient(address, registry_uri=address)
    for each in client.search_experiments():
        yield each.name, [run.info.status for run in client.search_runs([each.experiment_id])]


@pytest.mark.ci
def test_copies_without_connect_on_a_server_and_what_mlflow_prints_there(tmp_path):
    """MLflow prints two lines with pictographs at the end of a run, which cp1252 hasn't."""
    server = Server(tmp_path, "server", "--workers", "1", **WITHOUT_JOBS)
    try:
        with DagsHub(server.uri) as site:
            script = own_copy("dagshub_run", tmp_path)
            result = run([PYTHON, script], script.parent, **settings(tmp_path, site.host))
        assert result.returncode == 0, result.stderr
        script = own_copy("log_dataset", tmp_path)
        for cure, code, statuses in [
            ({}, 1, ["RUNNING"]),
            ({"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}, 0, ["FINISHED"] * 2),
            ({"PYTHONIOENCODING": "utf-8"}, 0, ["FINISHED"] * 2),
            ({"PYTHONIOENCODING": "", "PYTHONUTF8": "1"}, 0, ["FINISHED"] * 2),
        ]:
            before = len(dict(ends(server.uri)).get("log-dataset", []))
            env = CONSOLE | {"MLFLOW_TRACKING_URI": server.uri} | cure
            result = run([PYTHON, script], script.parent, encoding="latin-1", **env)
            assert result.returncode == code, result.stderr
            assert ("UnicodeEncodeError: 'charmap'" in result.stderr) == bool(code)
            ended = dict(ends(server.uri))["log-dataset"]  # the newest first
            assert ended[: len(ended) - before] == statuses
    finally:
        server.stop()
