"""A run is repeated from what its store holds of it, and the lesson says what differs."""

import os
import pty
import re
import shutil
import subprocess
from importlib.metadata import version

import pandas as pd
import pytest
from filled import copy_after, copy_repo
from mlflow import MlflowClient
from running import ENV, LESSONS, PYTHON, run, run_script, uri
from sentences import assert_one_sentence, assert_success
from stores import children_of, contents, runs_of

# Of these a run stores its script. dagshub_run's goes to DagsHub each time.
REPEATABLE = [
    path.stem
    for path in LESSONS
    if "mlflow.log_artifact(SCRIPT)" in path.read_text() and path.stem != "dagshub_run"
]
# Somebody's own script: its data are a file, MLflow names its run, its children have no params.
OWN = """
import mlflow
import pandas as pd

rows = pd.read_csv({!r})
experiment_id = mlflow.set_experiment("own").experiment_id
with mlflow.start_run(experiment_id=experiment_id) as run:
    mlflow.log_param("rows", len(rows))
    for step in range(3):
        mlflow.log_metric("curve", rows["x"].iloc[: step + 1].sum(), step=step)
    mlflow.log_metrics({{"fit_time": 1, "sentiment": 2, "nothing": float("nan")}})
    mlflow.log_artifact(__file__)
    for column in rows:
        given = mlflow.data.from_pandas(rows[[column]], name=column)
        mlflow.log_input(given, context="training" if column == "x" else None)
        with mlflow.start_run(experiment_id=experiment_id, run_name=column, nested=True):
            mlflow.log_metric("largest", rows[column].max())
print(run.info.run_id)
"""


def repeat(folder, *args):
    """Run the lesson of the repo in FOLDER on its store, or of this one; return the process."""
    root = {"root": folder} if (folder / "src").exists() else {}
    return run_script("reproduce_run", folder, *args, MLFLOW_TRACKING_URI=uri(folder), **root)


def refused(folder, *args, **options):
    """Run the lesson, which must refuse and store nothing; return what it printed and said."""
    before = contents(uri(folder))
    result = repeat(folder, *args)
    assert contents(uri(folder)) == before
    return result.stdout, assert_one_sentence(result, **options)


def repeated(folder, *args):
    """Run the lesson without a question; return the run that it logged and what it printed."""
    printed = assert_success(repeat(folder, *args, "--yes"))
    (report,) = runs_of(uri(folder), "reproduce-run")
    assert f'Run "{report.info.run_name}", ID {report.info.run_id}\n' in printed
    return report, printed


def table(report, name):
    """The table that the run REPORT holds under this name."""
    path = os.path.join(report.info.artifact_uri.removeprefix("file://"), name)
    return pd.read_csv(path, keep_default_na=False)


def lines(printed):
    """The words of each line of what was printed."""
    return [line.split() for line in printed.splitlines()]


def own_run(folder, **env):
    """Run a script of somebody's own, by default on the store in FOLDER; return the run's ID."""
    rows = folder / "rows.csv"
    rows.write_text("x,y\n1.0,5.0\n2.0,6.0\n3.0,4.0\n")
    script = folder / "own.py"
    script.write_text(OWN.format(str(rows)))
    env = {"MLFLOW_TRACKING_URI": uri(folder), "MLFLOW_ALLOW_FILE_STORE": "true"} | env
    done = run([PYTHON, script], folder, **env)
    assert done.returncode == 0, done.stderr
    script.unlink()
    return done.stdout.split()[-1]


def stored_file(folder, name):
    """The one file of this name among what the store in FOLDER keeps."""
    (path,) = (folder / "mlruns").rglob(name)
    return path


def test_a_run_is_repeated_to_the_last_digit(store, tmp_path):
    run_id = own_run(tmp_path, **store.env)
    home = [store.client.get_run(run_id).info.experiment_id]
    before = [each.info.run_id for each in store.client.search_runs(home)]
    printed = assert_success(
        run_script("reproduce_run", store.folder, run_id, "--yes", **store.env)
    )
    assert "\nAll scores are equal\nOf 6 scores 0 differ; 1 values are left out\n" in printed
    found = re.search(r'^Run "own", ID (\w+)\nNext: ', printed, re.MULTILINE)
    report = store.client.get_run(found[1])
    assert report.info.status == "FINISHED"
    assert report.data.params == {"run_id": run_id, "script": "own.py"}
    assert report.data.metrics == {"all": 6, "off": 0, "worst": 0}
    assert report.data.tags["equal"] == "yes"
    assert store.files(report.info.run_id) == ["differs.csv", "metrics.csv"]
    # The second run went elsewhere.
    assert [each.info.run_id for each in store.client.search_runs(home)] == before


def test_without_a_terminal_and_without_yes_it_shows_what_it_would_run_and_refuses(tmp_path):
    """A change that isn't committed, another scikit-learn and another commit are said before."""
    copy_repo(tmp_path, "basic_run")
    (old,) = runs_of(uri(tmp_path), "basic-run")
    needs = stored_file(tmp_path, "requirements.txt")
    needs.write_text(needs.read_text().replace(version("scikit-learn"), "1.5.0"))
    script = tmp_path / "src" / "basic_run.py"
    sha = subprocess.check_output(["sha256sum", script], text=True)[:12]
    with script.open("a") as file:
        file.write("# changed\n")
    printed, sentence = refused(tmp_path, old.info.run_id)
    assert "Nothing was run: " in sentence
    changed = subprocess.check_output(["sha256sum", script], text=True)[:12]
    commit = old.data.tags["mlflow.source.git.commit"][:12]
    assert ["script", sha, changed] in lines(printed)
    assert ["commit", commit, f"{commit}-dirty"] in lines(printed)
    assert ["scikit-learn", "1.5.0", version("scikit-learn")] in lines(printed)
    assert ["skops", version("skops"), version("skops")] in lines(printed)
    shutil.rmtree(tmp_path / ".git")  # as from a ZIP file
    printed, _ = refused(tmp_path, old.info.run_id)
    assert ["commit", commit, "unknown"] in lines(printed)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "No such run is here. Without an ID: run python src/hypertune2.py first\n"),
        (["0123456789abcdef0123456789abcdef", "--yes"], "No such run is here. "),
    ],
    ids=["no search", "unknown"],
)
def test_a_run_that_is_not_there(args, words, folder):
    assert refused(folder, *args)[1].startswith(words)


def test_a_run_without_a_script(folder):
    client = MlflowClient(uri(folder))
    run_id = client.create_run("0").info.run_id
    expected = f"Run {run_id} can't be repeated: it stores no scripts\n"
    assert refused(folder, run_id, "--yes")[1] == expected


@pytest.mark.ci
def test_an_edited_row_is_recognised_and_how_far_off_it_leads(folder):
    run_id = own_run(folder)
    (folder / "rows.csv").write_text("x,y\n1.0,5.0\n2.5,6.0\n3.0,4.0\n")
    report, printed = repeated(folder, run_id)
    assert report.data.params == {"run_id": run_id, "script": "own.py"}
    # Three points of the curve, of which two are off, two children, and a sentiment.
    assert report.data.metrics == {"all": 6, "off": 2, "worst": 0.5}
    assert report.data.tags["equal"] == "no"
    assert "Of 6 scores 2 differ; 1 values are left out\n" in printed
    assert ["curve", "1", "3.0", "3.5", "0.5"] in lines(printed)
    assert ["curve", "2", "6.0", "6.5", "0.5"] in lines(printed)
    differs = table(report, "differs.csv").set_index("what")
    assert set(differs.index) == {"script", "commit", "x training"}
    data = MlflowClient(uri(folder)).get_run(run_id).inputs.dataset_inputs
    digests = [given.dataset.digest for given in data if given.dataset.name == "x"]
    assert differs["then"]["x training"] == digests[0] != differs["here"]["x training"]
    assert differs["here"]["script"] == ""  # there is no own.py beside the lesson
    metrics = table(report, "metrics.csv")
    assert len(metrics) == 7
    child = metrics[metrics["run"] == "y"].iloc[0]
    assert [child["metric"], child["then"], child["here"]] == ["largest", 6, 6]


@pytest.mark.ci
def test_another_column_is_a_child_and_data_that_are_missing_then(folder):
    run_id = own_run(folder)
    (folder / "rows.csv").write_text("x,z\n1.0,5.0\n2.0,6.0\n3.0,4.0\n")
    report, printed = repeated(folder, run_id)
    assert report.data.metrics["all"] == 7 and report.data.metrics["off"] == 2
    assert report.data.tags["equal"] == "no"
    differs = table(report, "differs.csv").set_index("what")
    assert differs["here"]["y"] == "missing" == differs["then"]["z"]


@pytest.mark.ci
def test_a_changed_script_is_told_with_how_far_off_its_scores_are(tmp_path):
    copy_repo(tmp_path, "basic_run")
    (old,) = runs_of(uri(tmp_path), "basic-run")
    script = stored_file(tmp_path, "basic_run.py")
    script.write_text(script.read_text().replace("SEED = 42", "SEED = 7"))
    report, printed = repeated(tmp_path, old.info.run_id)
    differs = table(report, "differs.csv").set_index("what")
    assert set(differs.index) == {"script", "random_state"}
    assert list(differs.loc["random_state"]) == ["42", "7"]
    metrics = table(report, "metrics.csv").set_index("metric")
    assert dict(metrics["then"]) == old.data.metrics
    by = (metrics["here"] - metrics["then"]).abs()
    assert report.data.metrics == {"all": 2, "off": 2, "worst": by.max()}
    assert by.min() > 0 and report.data.tags["equal"] == "no"
    assert "Of 2 scores 2 differ" in printed


@pytest.mark.ci
def test_a_script_that_fails_is_told_with_its_last_lines(folder):
    run_id = own_run(folder)
    with stored_file(folder, "own.py").open("a") as file:
        file.write("raise SystemExit('too little memory')\n")
    result = repeat(folder, run_id, "--yes")
    assert result.returncode == 1
    assert result.stderr.startswith("No new run to compare: exit code 1\n")
    assert result.stderr.endswith("too little memory\n\n")
    assert runs_of(uri(folder), "reproduce-run") == []


@pytest.mark.ci
@pytest.mark.parametrize(("answer", "code"), [("yes", 0), ("no", 1), ("y", 1)])
def test_in_a_terminal_it_asks(answer, code, folder):
    run_id = own_run(folder)
    own, terminal = pty.openpty()
    os.write(own, f"{answer}\n".encode())
    env = ENV | {"MLFLOW_TRACKING_URI": uri(folder)}
    script = next(path for path in LESSONS if path.stem == "reproduce_run")
    command = [PYTHON, script, run_id]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    result = subprocess.run(command, cwd=folder, env=env, stdin=terminal, timeout=300, **pipes)
    os.close(own)
    os.close(terminal)
    assert result.returncode == code
    path, asked = re.search(r"^Read (/.*/own\.py)\n(.*)", result.stdout, re.MULTILINE).groups()
    assert asked.startswith("It takes as long as it did then. Run it? Write yes: ")
    assert not os.path.exists(path)  # its folder is gone
    assert ("Nothing was run: " in result.stdout) == bool(code)
    assert len(runs_of(uri(folder), "reproduce-run")) == 1 - code


@pytest.mark.ci
def test_a_script_that_names_its_own_store_logs_there_again(folder):
    """As dagshub_run does."""
    script = folder / "own.py"
    script.write_text(f"""
import mlflow
mlflow.set_tracking_uri({uri(folder)!r})
mlflow.set_experiment("own")
with mlflow.start_run() as run:
    mlflow.log_artifact(__file__)
print(run.info.run_id)
""")
    run_id = run([PYTHON, script], folder).stdout.split()[-1]
    result = repeat(folder, run_id, "--yes")
    assert (result.returncode, result.stderr) == (1, "No new run to compare: exit code 0\n\n")
    assert len(runs_of(uri(folder), "own")) == 2


@pytest.mark.ci
@pytest.mark.parametrize("name", REPEATABLE)
def test_each_lesson_that_stores_its_script_is_repeated_to_the_last_digit(name, tmp_path):
    copy_after(tmp_path, name)
    runs = runs_of(uri(tmp_path), name.replace("_", "-"))
    old = next(each for each in runs if "mlflow.parentRunId" not in each.data.tags)
    args = [] if name == "hypertune2" else [old.info.run_id]  # the newest search
    report, printed = repeated(tmp_path, *args)
    assert report.data.params == {"run_id": old.info.run_id, "script": f"{name}.py"}
    assert report.data.tags["equal"] == "yes"
    assert report.data.metrics["off"] == 0
    assert "No difference found\nAll scores are equal\n" in printed
    client = MlflowClient(uri(tmp_path))
    family = [old, *children_of(client, old)]
    points = {
        (each.info.run_name if each is not old else "", metric, point.step)
        for each in family
        for metric in each.data.metrics
        for point in client.get_metric_history(each.info.run_id, metric)
    }
    metrics = table(report, "metrics.csv")
    clock = {key for key in points if key[1] == "mean_fit_time" or key[1].startswith("system/")}
    assert {tuple(each) for each in metrics[["run", "metric", "step"]].to_numpy()} >= points - clock
    assert report.data.metrics["all"] == len(points - clock) > 0


def test_the_lessons_that_store_their_script():
    assert set(REPEATABLE) >= {"autolog", "basic_run", "hypertune2", "hypertune3"}
