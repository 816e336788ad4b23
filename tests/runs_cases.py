"""Do what the rows of runs.md say and print as JSON what is left behind, in the page's words.

Each row is done in a fork with a store of its own. Code in the page is executed as it stands: LEFT
has what to look at afterwards. A row in words has a case, a function that does and measures it.
"""

import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
from doc_tables import ROOT, blocks, code, codes, tables
from forked_calls import empty_store, exit_code, in_forks, said
from mlflow.artifacts import download_artifacts, load_text
from running import uri

TABLES = tables("runs.md")
CLAIMS = {row[0]: row[1] for table in TABLES.values() for row in table if len(row) == 2}
MOVED = "a local store, its folder moved or renamed afterwards"
SIGNALS = {"Ctrl-C": signal.SIGINT, "`kill`": signal.SIGTERM, "`kill -9`": signal.SIGKILL}
EXIT_CODES = {"itself": (0, 1, 3), "Ctrl-C": (-2,), "`kill`": (-15, 1), "`kill -9`": (-9,)}
CASES = {}
assert math and np and suppress  # for the code in the page


def case(beginning):
    """The function below does and measures the row whose first cell has this beginning."""
    return partial(CASES.setdefault, beginning)


def log():
    mlflow.log_metric("loss", 1)


def all_runs():
    """Those of all experiments, less the deleted ones."""
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def only_run():
    (run,) = all_runs()
    return run


def status(run_id):
    return mlflow.get_run(run_id).info.status


def tree(run, folder=None):
    """The paths of the run's files and folders, the latter with a slash at their end."""
    for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, folder):
        yield file.path + "/" * file.is_dir
        if file.is_dir:
            yield from tree(run, file.path)


def curve(run):
    points = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    return [(point.value, point.step) for point in points]


def error_of(do):
    """The text of the error that DO raises, if it does."""
    try:
        do()
    except Exception as error:
        return str(error)
    return ""


def shown(error, first):
    """What the row quotes of the error; all of it if it quotes something else."""
    quoted = codes(CLAIMS[first])[-1] if "error `" in CLAIMS[first] else error
    return f"the error `{quoted if quoted in error else error}`"


def interruption(number, row):
    """The status of a run whose process ended as the row says."""
    text, ended_by, _ = row
    read, write = os.pipe()
    pid = os.fork()
    if not pid:

        def wait():
            os.write(write, b".")
            time.sleep(60)

        exec(code(text), globals() | {"wait": wait})
        # Not os._exit: a program's end, where MLflow ends an open run.
        sys.exit()
    os.close(write)
    if ended_by in SIGNALS:
        assert os.read(read, 1) == b".", "it never came to wait()"
        os.kill(pid, SIGNALS[ended_by])
    assert exit_code(pid) in EXIT_CODES[ended_by]
    run = only_run()
    assert run.data.metrics == {"loss": 1}
    end = ", no end time" if run.info.end_time is None else ""
    yield f"interruption {number}", run.info.status + end


def nothing(left):
    assert not left.params and not left.metrics and not left.tree
    return "nothing"


def last_param(left):
    assert len(left.params) == 1
    return left.params["depth"]


def last_metric(left):
    return str(left.metrics["loss"])


def two_points(left):
    ((first, step), (second, same)) = left.curve
    assert (first, second) == (3, 2) and step == same
    shows = f"the run shows {left.metrics['loss']:g}, the later"
    return f"{len(left.curve)} points, both at step {step}; {shows}"


def three_points(left):
    assert left.curve == [(3, 0), (2, 1), (1, 2)]
    steps = ", ".join(str(step) for _, step in left.curve)
    return f"{len(left.curve)} points, at steps {steps}; the run shows {left.metrics['loss']:g}"


def points_out_of_order(left):
    assert max(left.curve, key=lambda point: point[1])[0] == left.metrics["loss"]
    shows = f"the run shows {left.metrics['loss']:g}, that of the highest step"
    return f"{len(left.curve)} points; {shows}"


def infinite(left):
    assert left.metrics["loss"] == sys.float_info.max
    return f"{left.metrics['loss']}, the largest float"


def empty_folder(left):
    (folder,) = left.tree
    assert folder.endswith("/")
    return f"an empty folder `{folder.removesuffix('/')}`"


def texts(left):
    (file,) = left.tree
    kinds = {"second": "with the second text", "a: 1\n": "in YAML", '{\n  "a": 1\n}': "in JSON"}
    return f"`{file}` {kinds[left.text(file)]}"


def image_of_a_step(left):
    folder, *found = left.tree
    assert sorted(Path(file).suffix for file in found) == [".png", ".webp"]
    assert all("black+step+1+" in file for file in found)
    copies = "the picture and a smaller copy, for the UI's slider of steps"
    return f"{len(found)} files in `{folder}`, {copies}"


def kinship(*_):
    """How many runs there are, and whether they are parent and child."""
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in all_runs()}
    if not any(parents.values()):
        return f"{len(parents)} run{'s' * (len(parents) > 1)}, without a parent"
    (parent,) = set(parents.values()) - {None}
    assert parents[parent] is None and len(parents) == 2
    return "2 runs, parent and child"


def statuses(_):
    assert kinship() == "2 runs, parent and child"
    parent, child = sorted(all_runs(), key=lambda run: "mlflow.parentRunId" in run.data.tags)
    return f"parent {parent.info.status}, child {child.info.status}"


# For each row of code, by its beginning: what to say of the run that it was executed in, or of all
# runs if it starts its own. Warnings and errors are added to that.
LEFT = {
    'mlflow.log_param("note"': lambda left: f"{len(left.params['note']):,} characters",
    'mlflow.set_tag("note"': lambda left: f"{len(left.tags['note']):,} characters",
    'mlflow.log_param("depth", 3); mlflow.log_param("depth", 4)': last_param,
    'mlflow.log_param("depth", 3); mlflow.log_param("depth", "3")': lambda left: (
        last_param(left) + ": params are text"
    ),
    'mlflow.log_param("depth", 3); mlflow.log_params(': lambda left: (
        f"depth {last_param(left)}, no trees"
    ),
    'mlflow.set_tag("stage"': lambda left: left.tags["stage"],
    'mlflow.log_metric("loss", "0.5")': last_metric,
    'mlflow.log_metric("loss", "low")': nothing,
    "mlflow.log_metrics(": nothing,
    'mlflow.log_metric("loss", math.nan)': last_metric,
    'mlflow.log_metric("loss", math.inf)': infinite,
    'mlflow.log_metric("loss", -math.inf)': last_metric,
    'mlflow.log_metric("loss", 3)': two_points,
    '[mlflow.log_metric("loss", 3 - step': three_points,
    'mlflow.log_metric("loss", 1, step=9)': points_out_of_order,
    'mlflow.log_artifact("note.txt", "docs")': lambda left: f"`{left.tree[1]}`",
    'mlflow.log_artifact("docs", "note.txt")': empty_folder,
    'mlflow.log_artifact("missing.txt")': nothing,
    'mlflow.log_artifacts("missing")': lambda left: f"{nothing(left)}, and no error",
    "mlflow.log_text(": texts,
    "mlflow.log_dict(": texts,
    'mlflow.log_image(np.zeros((4, 4, 3), dtype="uint8"), "': lambda left: f"`{left.tree[0]}`",
    'mlflow.log_image(np.zeros((4, 4, 3), dtype="uint8"), key=': image_of_a_step,
    "with mlflow.start_run(), mlflow.start_run(nested=True): pass": kinship,
    "with mlflow.start_run(nested=True)": kinship,
    "with mlflow.start_run(): mlflow.start_run()": lambda _: f"1 run, {only_run().info.status}",
    "with mlflow.start_run(), mlflow.start_run(nested=True): raise": statuses,
    "with mlflow.start_run(), suppress(ValueError)": statuses,
}


def execute(first):
    """Execute the row's code; say what it left, its warnings and its error."""
    (look,) = [look for words, look in LEFT.items() if code(first).startswith(words)]
    Path("note.txt").write_text("a note")
    left = None
    if code(first).startswith("with"):
        error = error_of(lambda: exec(code(first), globals()))
    else:
        with mlflow.start_run():
            error = error_of(lambda: exec(code(first), globals()))
        run = only_run()
        left = SimpleNamespace(**dict(run.data), tree=list(tree(run)), curve=curve(run))
        left.text = lambda file: load_text(f"{run.info.artifact_uri}/{file}")
    parts = [look(left)]
    for line in said().splitlines():
        if "WARNING" in line:
            parts.append("and a warning" if "truncated" in line else line)
    # The ValueError that a row raises itself has no text.
    return ", ".join(parts + [f"and {shown(error, first)}"] * bool(error))


def log_names(characters):
    """Log a param, a metric and a tag with each character in their names; return errors, names."""
    with mlflow.start_run():
        errors = [
            error_of(lambda call=call, char=char: call(f"a{char}b", 1))
            for char in characters
            for call in (mlflow.log_param, mlflow.log_metric, mlflow.set_tag)
        ]
    data = only_run().data
    tags = [name for name in data.tags if not name.startswith("mlflow.")]
    return errors, sorted([*data.params, *data.metrics, *tags])


@case("a name of a param, metric or tag with one of")
def refused_names(first):
    errors, logged = log_names(codes(first))
    assert len(errors) == 13 * 3 and not logged
    (error,) = {shown(error, first) for error in errors}
    return f"nothing, and {error}"


@case("a name with one of")
def accepted_names(first):
    characters = [*codes(first), " "]
    errors, logged = log_names(characters)
    assert len(characters) == 7 and not any(errors)
    assert logged == sorted([f"a{char}b" for char in characters] * 3)
    return "that name"


def all_the_calls():
    """Execute the page's first block in a project; then move that."""
    Path("project").mkdir()
    os.chdir("project")
    shutil.copy("../mlflow.db", ".")
    shutil.copy(ROOT / "requirements.txt", ".")
    shutil.copytree(ROOT / "benchmarks", "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    exec(blocks("runs.md", "python")[0], {})
    run = only_run()
    folder = Path(download_artifacts(run.info.artifact_uri))
    found = {
        "run": [run.info.status, run.info.run_name, run.data.params, run.data.metrics],
        "loss": curve(run),
        "tags": {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")},
        "files": sorted(name for name in tree(run) if not name.endswith("/")),
        "classes": json.loads((folder / "classes.json").read_text()),
        "picture": (folder / "loss.png").read_bytes()[1:4].decode(),
    }
    yield "all the calls", found

    old = Path.cwd()
    assert run.info.artifact_uri.removeprefix("file://").startswith(f"{old}/")
    old.rename("../moved")
    mlflow.set_tracking_uri(uri(old.parent / "moved"))
    run = only_run()
    assert run.data.params["depth"] == "3" and run.data.metrics["loss"] == 0.4
    assert not list(tree(run))
    summary = f"{run.info.artifact_uri}/summary.txt"
    assert "No such artifact" in error_of(lambda: load_text(summary))
    (old.parent / "moved").rename(old)
    assert load_text(summary) == "All went well."
    yield MOVED, "params and metrics, but no files: they are looked for in the old place"


def store_in(name):
    """The top folder, and in it the folder NAME, in which a run stored a.txt by the defaults."""
    top = Path.cwd()
    folder = top / name
    folder.mkdir()
    os.chdir(folder)
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with mlflow.start_run():
        mlflow.log_text("text", "a.txt")
    assert (folder / "mlflow.db").exists()
    return top, folder


@case("a local store in a folder with `%20` in its name")
def percent(_):
    top, _ = store_in("with%20percent")
    assert [path.relative_to(top).parts[0] for path in top.rglob("a.txt")] == ["with percent"]
    return "the files in another folder, with a space for `%20`"


@case("a local store in a folder with a space in its name, and no `MLFLOW_TRACKING_URI`")
def space(_):
    top, folder = store_in("with space")
    assert list((folder / "mlruns").rglob("a.txt")) and only_run().info.status == "FINISHED"
    assert list((top / "with%20space").iterdir()) == []
    return "all of it, and an empty folder beside it with `%20` for the space"


@case('`mlflow.log_param("depth", 3)` without a run')
def no_run(first):
    exec(code(first))
    (run,) = all_runs()
    assert run.data.params == {"depth": "3"} and run.info.status == "RUNNING"
    mlflow.end_run()
    assert only_run().info.status == "FINISHED"
    return "1 run, made by itself and open until the program ends or `mlflow.end_run()`"


@case("`mlflow.log_metric` after the `with` block")
def after_the_block(_):
    with mlflow.start_run():
        mlflow.log_param("depth", 3)
    log()
    counts = sorted((len(run.data.params), len(run.data.metrics)) for run in all_runs())
    assert counts == [(0, 1), (1, 0)]
    return f"{len(counts)} runs: the metric is in a new one"


@case("`mlflow.set_experiment` inside a run, then a child by `nested=True`")
def other_experiment(_):
    with mlflow.start_run() as parent:
        other = mlflow.set_experiment("the new experiment")
        with mlflow.start_run(nested=True) as child:
            pass
    assert kinship() == "2 runs, parent and child"
    assert child.info.experiment_id == other.experiment_id != parent.info.experiment_id
    return "a child in the new experiment, its parent in the old"


def in_thread(do):
    worker = threading.Thread(target=do)
    worker.start()
    worker.join()


def start_and_end(**how):
    with mlflow.start_run(**how) as run:
        return run.info.run_id


@case("`start_run(nested=True)` in a thread")
def nested_in_thread(_):
    with mlflow.start_run():
        in_thread(lambda: start_and_end(nested=True))
    return kinship()


@case("`start_run(parent_run_id=...)` in a thread")
def parent_in_thread(_):
    with mlflow.start_run() as run:
        in_thread(lambda: start_and_end(parent_run_id=run.info.run_id))
    return kinship()


@case("`mlflow.log_param` in a thread, the run being opened outside")
def log_in_thread(_):
    with mlflow.start_run() as opened:
        in_thread(lambda: mlflow.log_param("depth", 3))
    (new,) = [run for run in all_runs() if run.info.run_id != opened.info.run_id]
    assert new.data.params == {"depth": "3"}
    assert not mlflow.get_run(opened.info.run_id).data.params
    assert status(opened.info.run_id) == "FINISHED"
    return f"2 runs: the param is in a new one, which stays {new.info.status}"


def in_worker(make_run):
    """Make a run in a process that was there before its parent's run opened the store."""
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe()
    worker = context.Process(target=lambda: make_run(its.recv()))
    worker.start()
    with mlflow.start_run() as run:
        mine.send(run.info.run_id)
        worker.join()
    assert worker.exitcode == 0
    return kinship()


@case("`start_run(nested=True)` in a worker process")
def nested_in_worker(_):
    return in_worker(lambda parent: start_and_end(nested=True))


@case("`start_run(parent_run_id=...)` in a worker process")
def parent_in_worker(_):
    return in_worker(lambda parent: start_and_end(parent_run_id=parent))


@case("`start_run(run_id=...)` of a FAILED run")
def continue_failed(_):
    with suppress(ValueError), mlflow.start_run() as run:
        raise ValueError
    assert status(run.info.run_id) == "FAILED"
    start_and_end(run_id=run.info.run_id)
    return f"the same run, {only_run().info.status}"


def environment_run():
    """Make a run, to be continued because MLFLOW_RUN_ID is its ID."""
    run = mlflow.MlflowClient().create_run("0")
    os.environ["MLFLOW_RUN_ID"] = run.info.run_id
    return run.info.run_id


@case("environment variable `MLFLOW_RUN_ID`, `start_run()` twice")
def environment_twice(_):
    given, first, second = environment_run(), start_and_end(), start_and_end()
    assert first == given != second
    assert {run.info.run_id for run in all_runs()} == {given, second}
    return "the first continues that run, the second makes one of its own"


@case("environment variable `MLFLOW_RUN_ID`, `start_run(parent_run_id=...)`")
def environment_and_parent(_):
    parent = start_and_end()
    given = environment_run()
    assert start_and_end(parent_run_id=parent) == given
    assert kinship() == "2 runs, without a parent"
    return "that run, without a parent"


@case("`mlflow.delete_run(run_id)`")
def delete(_):
    with mlflow.start_run() as run:
        mlflow.log_param("depth", 3)
    mlflow.delete_run(run.info.run_id)
    assert not all_runs()
    assert mlflow.get_run(run.info.run_id).data.params == {"depth": "3"}
    refused = error_of(lambda: start_and_end(run_id=run.info.run_id))
    assert "it is in the deleted state" in refused
    return "not in searches; `mlflow.get_run` still reads it, `start_run(run_id=...)` refuses it"


def close_runs():
    """Execute the page's block for runs that look as if they were going."""
    experiment = mlflow.set_experiment("docs-runs").experiment_id
    left_open = [mlflow.MlflowClient().create_run(experiment).info.run_id for _ in range(2)]
    ended = start_and_end()
    (block,) = [text for text in blocks("runs.md", "python") if "set_terminated" in text]
    exec(block, {})
    yield "closed", [status(run_id) for run_id in (*left_open, ended)]


def measure(first):
    (do,) = [do for words, do in CASES.items() if first.startswith(words)] or [execute]
    yield first, do(first)


if __name__ == "__main__":
    for words in [*CASES, *("`" + words for words in LEFT)]:
        assert any(first.startswith(words) for first in CLAIMS), f"no row begins with {words}"
    jobs = [all_the_calls, close_runs]
    jobs += [partial(interruption, *numbered) for numbered in enumerate(TABLES["Interruptions"])]
    jobs += [partial(measure, first) for first in CLAIMS if first != MOVED]
    print(json.dumps(in_forks(jobs, empty_store())))
