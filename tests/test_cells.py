"""The lessons as cells in a real Jupyter kernel: as in VS Code and Jupyter."""

import re
from pathlib import Path

import pytest
from cells import cells_of, printed, run_cells
from dagshub_standin import DagsHub, settings
from documents import normalised
from filled import copy_before, copy_repo, repo_with, words_for
from matplotlib.image import imread
from mlflow import MlflowClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from running import LESSONS, ROOT, uri
from sentences import REPORTS
from services import ENV, WITHOUT_JOBS, Server
from stores import contents_without_source, runs_of

# dagshub_run needs a stand-in of the site, see its own test.
NAMES = [path.stem for path in LESSONS if path.stem != "dagshub_run"]
SETTINGS = """
import mlflow
from tracking import connect
connect()
mlflow.set_experiment("cells")
"""
INTERRUPT = """
    import os, signal, threading, time
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    time.sleep(60)
"""


@pytest.mark.parametrize("script", LESSONS, ids=lambda script: script.stem)
def test_cells_begin_in_the_first_column(script):
    """VS Code and jupytext split at an indented one too, in the middle of a `with` block."""
    assert not re.findall(r"^[ \t]+# ?%%.*", script.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_without_file_a_lesson_takes_its_own_name(name):
    """VS Code sets __file__ for cells, Jupyter doesn't. basic_run is run below with both."""
    text = (ROOT / "src" / f"{name}.py").read_text()
    asked = f'globals().get("__file__", "{name}.py")'
    assert not re.findall(
        r"(?<![.\w])__file__", text.replace(asked, "").replace("has no __file__", "")
    )


def assert_same_pictures(cells, script):
    """A notebook draws each figure once more, and its layout may move by less than a pixel."""
    for path in (script / "mlruns").rglob("*.png"):
        (other,) = (cells / "mlruns").rglob(f"{path.parent.name}/{path.name}")
        expected, found = imread(path), imread(other)
        assert found.shape == expected.shape
        assert abs(found - expected).mean() < 0.01
        assert expected.std() > 0.05  # it isn't empty


@pytest.mark.ci
@pytest.mark.parametrize("name", NAMES)
def test_cells_print_and_store_what_the_script_does(name, tmp_path):
    script, printed_there, _ = repo_with(name)
    words, path = words_for(name, script), Path("src", f"{name}.py")
    for file in [False, True] if name == "basic_run" else [False]:
        folder = tmp_path / f"cells-{file}"
        copy_before(folder, name)
        first = [f"__file__ = {str(folder / path)!r}"] if file else []  # as VS Code does
        cells = [cell.replace("words = []", f"words = {words}") for cell in cells_of(folder / path)]
        notebook = run_cells([*first, *cells], folder / "src", tmp=tmp_path)
        assert not REPORTS.sub("", printed(notebook, "stderr"))
        texts = printed_there.replace(str(script), ""), printed(notebook).replace(str(folder), "")
        assert normalised(texts[1]) == normalised(texts[0])
        assert contents_without_source(folder) == contents_without_source(script)
        assert_same_pictures(folder, script)


@pytest.mark.ci
def test_dagshub_run_as_cells(tmp_path):
    copy_repo(tmp_path)
    script = tmp_path / "src" / "dagshub_run.py"
    server = Server(tmp_path, "server", "--workers", "1", **WITHOUT_JOBS)
    try:
        with DagsHub(server.uri) as site:
            env = ENV | settings(tmp_path, site.host)
            notebook = run_cells(cells_of(script), script.parent, tmp=tmp_path, env=env)
        assert "repeats 18 of 18 predictions\n" in printed(notebook)
        (run,) = runs_of(server.uri, "dagshub-run")
        assert run.info.status == "FINISHED"
        files = {"confusion_matrix.png", "dagshub_run.py", "model"}
        assert {f.path for f in MlflowClient(server.uri).list_artifacts(run.info.run_id)} == files
    finally:
        server.stop()


@pytest.fixture
def in_cells(tmp_path):
    """Run cells after the settings, each whatever the one before did; return runs and errors."""
    copy_repo(tmp_path)

    def call(*cells):
        cells = [SETTINGS, *cells]
        notebook = run_cells(cells, tmp_path / "src", tmp=tmp_path, allow_errors=True)
        outputs = [output for cell in notebook.cells for output in cell.outputs]
        errors = [f"{each.ename}: {each.evalue}" for each in outputs if "ename" in each]
        return runs_of(uri(tmp_path), "cells"), errors

    return call


def ends(runs):
    return [(run.info.run_name, run.info.status, run.data.metrics) for run in runs]


@pytest.mark.ci
def test_a_cell_with_a_with_block_can_fail_and_be_run_again(in_cells):
    cell = "with mlflow.start_run(run_name='r'): mlflow.log_metric('loss', 1); {}"
    runs, errors = in_cells(cell.format("1 / 0"), *[cell.format("")] * 2)
    assert errors == ["ZeroDivisionError: division by zero"]
    assert ends(runs) == [("r", status, {"loss": 1}) for status in ("FAILED", *["FINISHED"] * 2)]
    for run in runs:
        tags = run.data.tags
        assert tags["mlflow.source.type"] == "NOTEBOOK"
        assert tags["mlflow.source.name"].endswith("ipykernel_launcher.py")
        assert "mlflow.source.git.commit" not in tags


@pytest.mark.ci
def test_a_run_that_was_begun_without_with_stays_open_until_it_is_ended(in_cells):
    runs, errors = in_cells(
        "mlflow.start_run(run_name='open'); 1 / 0",
        "mlflow.log_metric('loss', 1)",
        "mlflow.start_run()",
        "mlflow.end_run('FAILED')",
        "mlflow.start_run(run_name='next')",  # the kernel's orderly end ends it
    )
    assert errors[0] == "ZeroDivisionError: division by zero"
    assert "is already active" in errors[1]
    assert len(errors) == 2
    assert ends(runs) == [("open", "FAILED", {"loss": 1}), ("next", "FINISHED", {})]


@pytest.mark.ci
def test_an_interrupt_ends_a_with_block_as_failed_and_leaves_an_open_run_open(in_cells):
    runs, errors = in_cells(
        f"with mlflow.start_run(run_name='with'):{INTERRUPT}",
        f"if mlflow.start_run(run_name='open'):{INTERRUPT}",
        "assert mlflow.active_run()",
    )
    assert errors == ["KeyboardInterrupt: "] * 2
    assert ends(runs) == [("with", "FAILED", {}), ("open", "FINISHED", {})]


@pytest.mark.ci
def test_a_kernel_that_is_killed_leaves_the_run_running(in_cells, tmp_path):
    with pytest.raises(DeadKernelError):
        in_cells("import os\nwith mlflow.start_run(run_name='r'): os.kill(os.getpid(), 9)")
    assert ends(runs_of(uri(tmp_path), "cells")) == [("r", "RUNNING", {})]


@pytest.mark.ci
def test_a_lesson_that_misses_an_earlier_one_says_so_and_stops_run_all(tmp_path):
    copy_repo(tmp_path)
    cells = cells_of(tmp_path / "src" / "compare_runs.py")
    with pytest.raises(CellExecutionError, match="run python src/hypertune2.py first") as error:
        run_cells(cells, tmp_path / "src", tmp=tmp_path)
    assert error.value.ename == "SystemExit"
