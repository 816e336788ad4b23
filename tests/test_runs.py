"""Every row of docs/runs.md against real runs: a check measures its last cell anew."""

import json
import math
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from doc_tables import blocks, tables
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, load_text
from mlflow.exceptions import MlflowException
from running import ROOT, at_once, run

pytestmark = pytest.mark.facts
TABLES = tables("runs.md")
CLAIMS = {row[0]: row[1] for name, rows in TABLES.items() for row in rows if len(row) == 2}
SIGNAL_CODES = {"itself": (0, 1, 3), "Ctrl-C": (-2,), "`kill`": (-15, 1), "`kill -9`": (-9,)}
CHECKS = {}


class Cases:
    """The store after runs_cases.py, and the page's first block in a project folder, moved."""

    def __init__(self, folder):
        self.folder = folder
        project = folder / "project"
        shutil.copytree(
            ROOT / "benchmarks",
            project / "benchmarks",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        shutil.copy(ROOT / "requirements.txt", project)
        uri = f"sqlite:///{folder}/mlflow.db"
        block = [sys.executable, "-c", blocks("runs.md", "python")[0]]
        cases = [sys.executable, ROOT / "tests" / "runs_cases.py"]
        done = at_once(
            partial(run, block, project, MPLBACKEND="agg"),
            partial(run, cases, folder, MPLBACKEND="agg", MLFLOW_TRACKING_URI=uri),
        )
        for process in done:
            assert process.returncode == 0, process.stderr
        self.told = json.loads(done[1].stdout.splitlines()[-1])
        self.client = MlflowClient(uri)
        self.project = project

    def runs(self, name):
        """All runs of the experiment; the names of experiments can't hold a slash."""
        experiment = self.client.get_experiment_by_name(name.replace("/", " "))
        return self.client.search_runs([experiment.experiment_id])

    def row(self, first):
        """The run in which the row of *Values* or *Files* was executed."""
        runs = [*self.runs("Values"), *self.runs("Files")]
        (run,) = [run for run in runs if run.info.run_name == first]
        return run

    def error(self, first):
        return self.told["errors"].get(first, "")

    def curve(self, first):
        """(value, step) of each point of the row's metric."""
        points = self.client.get_metric_history(self.row(first).info.run_id, "loss")
        return [(point.value, point.step) for point in points]

    def files(self, first, folder=None):
        found = self.client.list_artifacts(self.row(first).info.run_id, folder)
        return [file.path for file in found]

    def text(self, first, name):
        return load_text(f"{self.row(first).info.artifact_uri}/{name}")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return Cases(tmp_path_factory.mktemp("runs"))


def claim(start):
    """Register the check of the row whose first cell begins with START."""

    def register(check):
        (first,) = [first for first in CLAIMS if first.startswith(start)]
        assert first not in CHECKS
        CHECKS[first] = check
        return check

    return register


def refused(cases, first):
    """The error that the cell quotes, if MLflow's text holds it."""
    (quoted,) = re.findall("error `(.*)`", CLAIMS[first])
    assert quoted in cases.error(first), cases.error(first)
    return f"and the error `{quoted}`"


def quiet(cases, first):
    assert not cases.error(first) and not cases.told["warnings"][first]


def test_every_claim_has_a_check_and_every_check_a_claim():
    assert set(CLAIMS) == set(CHECKS)
    # These rows need no check of their own: code, signal and status stand in the table.
    ends = {(row[0].startswith("`with"), row[1]) for row in TABLES["Interruptions"]}
    assert len(TABLES["Interruptions"]) == 13 and len(ends) == 7


@pytest.mark.parametrize("first", CHECKS)
def test_claim(first, cases):
    assert CLAIMS[first] == CHECKS[first](cases, first)


@pytest.mark.parametrize(
    "number, row",
    list(enumerate(TABLES["Interruptions"])),
    ids=lambda x: x[0] if isinstance(x, list) else x,
)
def test_interruption(number, row, cases):
    text, ended_by, status = row
    (run,) = cases.runs(f"interruption {number}")
    assert status == run.info.status + (", no end time" if run.info.end_time is None else "")
    assert run.data.metrics == {"loss": 1}
    assert cases.told["exit codes"][number] in SIGNAL_CODES[ended_by]


def test_runs_that_look_alive_are_closed(cases):
    status = {run.info.run_id: run.info.status for run in cases.runs("closed")}
    left_open = cases.told["left open"]
    assert len(left_open) == 2 and len(status) == 3
    assert [status.pop(run_id) for run_id in left_open] == ["KILLED", "KILLED"]
    assert [*status.values()] == ["FINISHED"]


@pytest.fixture(scope="module")
def calls(cases):
    client = MlflowClient(f"sqlite:///{cases.project}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("docs-runs").experiment_id])
    return client, run


@claim('`mlflow.log_param("note", "x" * 6001)`')
def _(cases, first):
    assert ["truncated" in text for text in cases.told["warnings"][first]] == [True]
    return f"{len(cases.row(first).data.params['note']):,} characters, and a warning"


@claim('`mlflow.set_tag("note", "x" * 8001)`')
def _(cases, first):
    assert ["truncated" in text for text in cases.told["warnings"][first]] == [True]
    return f"{len(cases.row(first).data.tags['note']):,} characters, and a warning"


@claim('`mlflow.log_param("depth", 3); mlflow.log_param("depth", 4)`')
def _(cases, first):
    return f"{cases.row(first).data.params['depth']}, {refused(cases, first)}"


@claim('`mlflow.log_param("depth", 3); mlflow.log_param("depth", "3")`')
def _(cases, first):
    quiet(cases, first)
    value = cases.row(first).data.params["depth"]
    assert isinstance(value, str)
    return f"{value}: params are text"


@claim('`mlflow.log_param("depth", 3); mlflow.log_params(')
def _(cases, first):
    params = cases.row(first).data.params
    assert list(params) == ["depth"]
    return f"depth {params['depth']}, no trees, {refused(cases, first)}"


@claim('`mlflow.set_tag("stage", "draft")')
def _(cases, first):
    quiet(cases, first)
    return cases.row(first).data.tags["stage"]


@claim('`mlflow.log_metric("loss", "0.5")`')
def _(cases, first):
    quiet(cases, first)
    return str(cases.row(first).data.metrics["loss"])


@claim('`mlflow.log_metric("loss", "low")`')
@claim('`mlflow.log_metrics({"loss": 0.5, "note": "low"})`')
def _(cases, first):
    assert not cases.row(first).data.metrics
    return f"nothing, {refused(cases, first)}"


@claim('`mlflow.log_metric("loss", math.nan)`')
def _(cases, first):
    quiet(cases, first)
    return str(cases.row(first).data.metrics["loss"])


@claim('`mlflow.log_metric("loss", math.inf)`')
def _(cases, first):
    quiet(cases, first)
    value = cases.row(first).data.metrics["loss"]
    assert value == sys.float_info.max and not math.isinf(value)
    return f"{value}, the largest float"


@claim('`mlflow.log_metric("loss", -math.inf)`')
def _(cases, first):
    quiet(cases, first)
    return str(cases.row(first).data.metrics["loss"])


@claim('`mlflow.log_metric("loss", 3); mlflow.log_metric("loss", 2)`')
def _(cases, first):
    curve, shown = cases.curve(first), cases.row(first).data.metrics["loss"]
    assert [value for value, _ in curve] == [3, 2]
    (step,) = {step for _, step in curve}
    return f"{len(curve)} points, both at step {step}; the run shows {shown:g}, the later"


@claim('`[mlflow.log_metric("loss", 3 - step, step=step) for step in range(3)]`')
def _(cases, first):
    curve, shown = cases.curve(first), cases.row(first).data.metrics["loss"]
    assert curve == [(3, 0), (2, 1), (1, 2)]
    steps = ", ".join(str(step) for _, step in curve)
    return f"{len(curve)} points, at steps {steps}; the run shows {shown:g}"


@claim('`mlflow.log_metric("loss", 1, step=9)')
def _(cases, first):
    curve, shown = cases.curve(first), cases.row(first).data.metrics["loss"]
    assert max(curve, key=lambda point: point[1])[0] == shown
    return f"{len(curve)} points; the run shows {shown:g}, that of the highest step"


KINDS = ("log_param", "log_metric", "set_tag")


def names(run):
    own = [name for name in run.data.tags if not name.startswith("mlflow.")]
    return [*run.data.params, *run.data.metrics, *own]


@claim("a name of a param, metric or tag with one of")
def _(cases, first):
    characters = re.findall("`(.)`", first)
    assert len(characters) == 13 and not names(cases.row(first))
    (quoted,) = re.findall("error `(.*)`", CLAIMS[first])
    for kind in KINDS:
        assert all(quoted in cases.error(kind + char) for char in characters)
    return f"nothing, and the error `{quoted}`"


@claim("a name with one of")
def _(cases, first):
    characters = [*re.findall("`(.)`", first), " "]
    expected = [f"a{char}b" for char in characters] * len(KINDS)
    assert len(characters) == 7 and sorted(names(cases.row(first))) == sorted(expected)
    return "that name"


@claim('`mlflow.log_artifact("note.txt", "docs")`')
def _(cases, first):
    assert cases.files(first) == ["docs"]
    return f"`{cases.files(first, 'docs')[0]}`"


@claim('`mlflow.log_artifact("docs", "note.txt")`')
def _(cases, first):
    (folder,) = cases.files(first)
    assert not cases.files(first, folder)
    return f"an empty folder `{folder}`, {refused(cases, first)}"


@claim('`mlflow.log_artifact("missing.txt")`')
def _(cases, first):
    assert not cases.files(first)
    return f"nothing, {refused(cases, first)}"


@claim('`mlflow.log_artifacts("missing")`')
def _(cases, first):
    quiet(cases, first)
    assert not cases.files(first)
    return "nothing, and no error"


@claim('`mlflow.log_text("first", "a.txt")')
def _(cases, first):
    (file,) = cases.files(first)
    return f"`{file}` with the {cases.text(first, file)} text"


@claim('`mlflow.log_dict({"a": 1}, "a.yaml")`')
@claim('`mlflow.log_dict({"a": 1}, "a.txt")`')
def _(cases, first):
    (file,) = cases.files(first)
    kinds = {"a: 1\n": "YAML", '{\n  "a": 1\n}': "JSON"}
    return f"`{file}` in {kinds[cases.text(first, file)]}"


@claim('`mlflow.log_image(np.zeros((4, 4, 3), dtype="uint8"), "black.png")`')
def _(cases, first):
    return f"`{cases.files(first)[0]}`"


@claim('`mlflow.log_image(np.zeros((4, 4, 3), dtype="uint8"), key="black", step=1)`')
def _(cases, first):
    (folder,) = cases.files(first)
    files = cases.files(first, folder)
    assert sorted(Path(file).suffix for file in files) == [".png", ".webp"]
    assert all("black+step+1+" in file for file in files)
    return (
        f"{len(files)} files in `{folder}/`, the picture and a smaller copy, for the UI's "
        "slider of steps"
    )


@claim("a local store, its folder moved or renamed afterwards")
def _(cases, first):
    moved = cases.project.with_name("moved")
    cases.project.rename(moved)
    try:
        client = MlflowClient(f"sqlite:///{moved}/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("docs-runs").experiment_id])
        assert run.data.params["depth"] == "3" and run.data.metrics["loss"] == 0.4
        assert not client.list_artifacts(run.info.run_id)
        with pytest.raises(MlflowException, match="No such artifact"):
            load_text(f"{run.info.artifact_uri}/summary.txt")
        assert run.info.artifact_uri.removeprefix("file://").startswith(f"{cases.project}/")
    finally:
        moved.rename(cases.project)
    assert load_text(f"{run.info.artifact_uri}/summary.txt") == "All went well."
    return "params and metrics, but no files: they are looked for in the old place"


@claim("a local store in a folder with `%20` in its name")
def _(cases, first):
    found = [path.relative_to(cases.folder).parts[0] for path in cases.folder.rglob("a.txt")]
    assert "with percent" in found and "with%20percent" not in found
    assert (cases.folder / "with%20percent" / "mlflow.db").exists()
    return "the files in another folder, with a space for `%20`"


def parents(cases, first):
    """For each run of the case, oldest first, whether it has a parent that is there too."""
    runs = sorted(cases.runs(first), key=lambda run: run.info.start_time)
    ids = [run.info.run_id for run in runs]
    found = [run.data.tags.get("mlflow.parentRunId") for run in runs]
    assert {parent for parent in found if parent} <= set(ids)
    return [bool(parent) for parent in found]


@claim("`with mlflow.start_run(), mlflow.start_run(nested=True): pass`")
@claim("`start_run(parent_run_id=...)` in a thread")
@claim("`start_run(parent_run_id=...)` in a worker process")
def _(cases, first):
    found = parents(cases, first)
    assert sorted(found) == [False, True]
    return f"{len(found)} runs, parent and child"


@claim("`with mlflow.start_run(nested=True): pass`")
@claim("`start_run(nested=True)` in a thread")
@claim("`start_run(nested=True)` in a worker process")
def _(cases, first):
    found = parents(cases, first)
    assert not any(found)
    return f"{len(found)} run{'s' * (len(found) > 1)}, without a parent"


@claim("`with mlflow.start_run(): mlflow.start_run()`")
def _(cases, first):
    (run,) = cases.runs(first)
    return f"1 run, {run.info.status}, {refused(cases, first)}"


@claim("`with mlflow.start_run(), mlflow.start_run(nested=True): raise ValueError`")
@claim("`with mlflow.start_run(), suppress(ValueError)")
def _(cases, first):
    runs = sorted(cases.runs(first), key=lambda run: "mlflow.parentRunId" in run.data.tags)
    assert sorted(parents(cases, first)) == [False, True]
    parent, child = (run.info.status for run in runs)
    return f"parent {parent}, child {child}"


@claim('`mlflow.log_param("depth", 3)` without a run')
def _(cases, first):
    (run,) = cases.runs(first)
    assert run.data.params == {"depth": "3"}
    assert (cases.told["status in between"], run.info.status) == ("RUNNING", "FINISHED")
    return "1 run, made by itself and open until the program ends or `mlflow.end_run()`"


@claim("`mlflow.log_metric` after the `with` block")
def _(cases, first):
    runs = cases.runs(first)
    assert sorted((len(run.data.params), len(run.data.metrics)) for run in runs) == [(0, 1), (1, 0)]
    return f"{len(runs)} runs: the metric is in a new one"


@claim("`mlflow.set_experiment` inside a run, then a child by `nested=True`")
def _(cases, first):
    (parent,), (child,) = cases.runs(first), cases.runs("the new experiment")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    return "a child in the new experiment, its parent in the old"


@claim("`mlflow.log_param` in a thread, the run being opened outside")
def _(cases, first):
    opened, new = sorted(cases.runs(first), key=lambda run: len(run.data.params))
    assert new.data.params == {"depth": "3"} and not opened.data.params
    assert opened.info.status == "FINISHED"
    return f"2 runs: the param is in a new one, which stays {new.info.status}"


@claim("`start_run(run_id=...)` of a FAILED run")
def _(cases, first):
    (run,) = cases.runs(first)
    assert cases.told["failed"] == "FAILED"
    return f"the same run, {run.info.status}"


@claim("environment variable `MLFLOW_RUN_ID`, `start_run()` twice")
def _(cases, first):
    continued, other = cases.told["got"]
    assert continued == cases.told["given"] != other
    assert {run.info.run_id for run in cases.runs("environment")} == {continued, other}
    return "the first continues that run, the second makes one of its own"


@claim("environment variable `MLFLOW_RUN_ID`, `start_run(parent_run_id=...)`")
def _(cases, first):
    assert cases.told["got 2"] == cases.told["given 2"]
    assert parents(cases, "environment and parent") == [False, False]
    return "that run, without a parent"


@claim("`mlflow.delete_run(run_id)`")
def _(cases, first):
    assert not cases.runs(first)
    assert cases.client.get_run(cases.told["deleted"]).data.params == {"depth": "3"}
    assert "it is in the deleted state" in cases.error(first)
    return "not in searches; `mlflow.get_run` still reads it, `start_run(run_id=...)` refuses it"


def test_the_calls_leave_what_their_comments_say(calls):
    client, run = calls
    assert run.info.status == "FINISHED" and run.info.run_name == "all the calls"
    assert run.data.params == {"depth": "3", "trees": "50", "seed": "42"}
    assert run.data.metrics == {"loss": 0.4, "accuracy": 0.94, "f1": 0.93}
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.value, point.step) for point in points] == [(0.9, 0), (0.5, 1), (0.4, 2)]
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
    assert tags == {"dataset": "wine", "purpose": "example", "reviewed": "no"}
    folder = Path(download_artifacts(run.info.artifact_uri))
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    benchmarks = ROOT / "benchmarks"
    code = [f"code/{path.relative_to(benchmarks)}" for path in benchmarks.rglob("*.py")]
    others = ["classes.json", "loss.png", "setup/requirements.txt", "summary.txt"]
    assert files == sorted([*code, *others])
    assert json.loads((folder / "classes.json").read_text()) == {"classes": [0, 1, 2]}
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_deleted_run_is_refused_by_name(cases):
    with pytest.raises(MlflowException, match="'active' state"):
        cases.client.log_metric(cases.told["deleted"], "loss", 1)
