import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial

import psutil
import pytest
from dask.distributed import Client
from mlflow import MlflowClient
from running import ENV, ROOT, run, run_script, uri
from services import WITHOUT_JOBS, Server, free_port
from team import missing

INTERRUPTED = "Interrupted; an open run is marked FAILED, what it logged is kept\n"
SMALL = {"n_estimators": [16, 32], "max_depth": [2, 8, None]}
SMALL_NAMES = sorted(
    f"{trees} trees, depth {depth or 'unlimited'}"
    for trees in SMALL["n_estimators"]
    for depth in SMALL["max_depth"]
)
SPLITS = [f"split{fold}_test_score" for fold in range(5)]
SAME = ["mean_test_score", "std_test_score", *SPLITS]


def lesson(folder, grid=SMALL, before=""):
    """A copy of src/ with another GRID in the lesson, in FOLDER; again the same bytes."""
    shutil.copytree(
        ROOT / "src",
        folder / "src",
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
    )
    script = folder / "src" / "hypertune3.py"
    text, count = re.subn(r"^GRID = .*", f"GRID = {grid}", script.read_text(), flags=re.MULTILINE)
    assert count == 1
    script.write_text(before + text)
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory, template):
    """What hypertune2 finds: its parent, and its children by name."""
    folder = tmp_path_factory.mktemp("hypertune2")
    shutil.copy(template, folder)
    result = run_script("hypertune2", folder, MLFLOW_TRACKING_URI=uri(folder))
    assert result.returncode == 0, result.stderr
    (parent,), children = runs_in(uri(folder), "hypertune2")
    return parent, {child.info.run_name: child for child in children}


def runs_in(store, name="hypertune3"):
    """Parents and children, each oldest first."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(name)
    if not experiment:
        return [], []
    order = ["attributes.start_time ASC"]
    runs = client.search_runs([experiment.experiment_id], order_by=order)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def finished(children):
    """The finished ones by name; none is there twice."""
    done = [child for child in children if child.info.status == "FINISHED"]
    by_name = {child.info.run_name: child for child in done}
    assert len(by_name) == len(done)
    return by_name


def start(folder, grid=SMALL, **env):
    """Run the lesson on a grid; return the finished process."""
    env = {"MLFLOW_TRACKING_URI": uri(folder)} | env
    return run_script("hypertune3", folder, root=lesson(folder, grid), **env)


def search(folder, grid=SMALL, **env):
    """Run the lesson on a grid, with success and quietly; return what it printed."""
    result = start(folder, grid, **env)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


class Search:
    """The lesson in the background, in a process group of its own as in a terminal."""

    def __init__(self, folder, grid=SMALL, **env):
        self.folder = folder
        env = ENV | {"MLFLOW_TRACKING_URI": uri(folder)} | env
        self.store = env["MLFLOW_TRACKING_URI"]
        with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as error:
            self.process = subprocess.Popen(
                [sys.executable, lesson(folder, grid) / "src" / "hypertune3.py"],
                cwd=folder,
                env=env,
                stdout=out,
                stderr=error,
                start_new_session=True,
            )

    def wait_for(self, count, status=None):
        """Until COUNT children are there, or have the STATUS."""
        deadline = time.monotonic() + 120
        while True:
            _, children = runs_in(self.store)
            if len([c for c in children if status in (None, c.info.status)]) >= count:
                return children
            assert self.process.poll() is None and time.monotonic() < deadline, self.printed()
            time.sleep(0.02)

    def workers(self):
        """Its processes, without itself and Python's own helper."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def printed(self):
        return (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()

    def end(self):
        """Wait for it and all its processes to end by themselves; the exit code."""
        code = self.process.wait(120)
        deadline = time.monotonic() + 20
        try:
            while alive(self.process.pid):
                assert time.monotonic() < deadline, alive(self.process.pid)
                time.sleep(0.1)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return code


def alive(group):
    """The processes of a group that haven't ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
    return found


def check_small(store, expected):
    """All candidates of the small grid, once each, with hypertune2's numbers; the children."""
    parents, children = runs_in(store)
    done = finished(children)
    assert sorted(done) == SMALL_NAMES
    assert parents[-1].info.status == "FINISHED"
    assert not [child for child in children if child.info.status == "RUNNING"]
    for name, child in done.items():
        same = expected[1][name].data
        assert child.data.params == same.params
        assert {key: child.data.metrics[key] for key in SAME} == {
            key: same.metrics[key] for key in SAME
        }
    best = max(child.data.metrics["mean_test_score"] for child in done.values())
    assert parents[-1].data.metrics["best_cv_score"] == best
    return children


# What it finds: the same as hypertune2


ON = ["sqlite", "server", *[pytest.param(on, marks=pytest.mark.ci) for on in ("file", "team")]]


@pytest.fixture(scope="session")
def searched(store, tmp_path_factory):
    """Parent and children, and what was printed; the whole grid on SQLite, else the small one."""
    whole = store.uri.startswith("sqlite")
    root = ROOT if whole else lesson(tmp_path_factory.mktemp("lesson"))
    result = run_script("hypertune3", store.folder, root=root, **store.env)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    (parent,), children = runs_in(store.uri)
    return store, parent, children, result.stdout


@pytest.mark.parametrize("store", ON, indirect=True, scope="session")
def test_children_are_those_of_hypertune2(searched, expected):
    store, parent, children, _ = searched
    whole = store.uri.startswith("sqlite")
    assert len(children) == (16 if whole else 6)
    assert sorted(finished(children)) == (sorted(expected[1]) if whole else SMALL_NAMES)
    for child in children:
        same = expected[1][child.info.run_name].data
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["host"] == os.uname().nodename
        assert child.data.params == same.params
        metrics = dict(child.data.metrics)
        assert metrics.pop("mean_fit_time") > 0
        same.metrics.pop("mean_fit_time", None)
        if whole:
            assert metrics == same.metrics
        else:
            assert {key: metrics[key] for key in SAME} == {key: same.metrics[key] for key in SAME}
    ranks = sorted(child.data.metrics["rank_test_score"] for child in children)
    means = sorted(child.data.metrics["mean_test_score"] for child in children)
    assert ranks[0] == 1 and len(set(ranks)) == len(set(means))


@pytest.mark.parametrize("store", ON, indirect=True, scope="session")
def test_parent_is_that_of_hypertune2(searched, expected):
    store, parent, _, printed = searched
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["search"] == "breast-cancer-forest"
    if store.uri.startswith("sqlite"):
        assert parent.data.params == expected[0].data.params
        assert parent.data.metrics == expected[0].data.metrics
        assert "best parameters: {'max_depth': 8, 'n_estimators': 128}" in printed
    inputs = [i.dataset.name + i.dataset.digest for i in parent.inputs.dataset_inputs]
    assert sorted(inputs) == sorted(
        i.dataset.name + i.dataset.digest for i in expected[0].inputs.dataset_inputs
    )
    assert store.files(parent.info.run_id) == ["hypertune3.py"]
    model, files = store.model_files(parent)
    assert model.name == "best-forest" and "model.skops" in files


# What can go wrong in it


def test_a_failing_candidate_is_a_failed_child(folder):
    printed = search(folder, {"n_estimators": [0, 16], "max_depth": [2]})
    assert "\n2 candidates: 1 done, 1 failed, 0 skipped\n" in printed
    (parent,), children = runs_in(uri(folder))
    assert parent.info.status == "FINISHED"
    assert parent.data.params["best_n_estimators"] == "16"
    assert list(finished(children)) == ["16 trees, depth 2"]
    (failed,) = [child for child in children if child.info.status == "FAILED"]
    assert failed.data.params["n_estimators"] == "0"
    assert failed.data.tags["error"].startswith("InvalidParameterError: ")
    assert "n_estimators" in failed.data.tags["error"]


def test_where_all_fail_the_search_has_failed_and_other_code_begins_another(folder):
    result = start(folder, {"n_estimators": [0], "max_depth": [2]})
    assert result.returncode == 1
    assert result.stderr == "All candidates failed: see the tag `error` of the children\n"
    (parent,), (child,) = runs_in(uri(folder))
    assert (parent.info.status, child.info.status) == ("FAILED", "FAILED")

    printed = search(folder, {"n_estimators": [16], "max_depth": [2]})
    told = "is unfinished, but of other code or data, or may still\nrun: this is a new search\n"
    assert f"\nRun {parent.info.run_id} {told}" in printed
    (old, new), children = runs_in(uri(folder))
    parents = [child.data.tags["mlflow.parentRunId"] for child in children]
    assert parents == [old.info.run_id, new.info.run_id]
    assert (old.info.status, new.info.status) == ("FAILED", "FINISHED")
    assert old.data.to_dictionary() == parent.data.to_dictionary()


def test_a_killed_worker(folder, expected):
    one = Search(folder)
    one.wait_for(1, "RUNNING")
    one.workers()[0].kill()
    assert one.end() == 0, one.printed()
    children = check_small(uri(folder), expected)
    others = [child.info.status for child in children if child.info.status != "FINISHED"]
    assert others in ([], ["KILLED"])
    assert one.printed()[1] == ""


def test_without_dask(tmp_path):
    (tmp_path / "dask.py").write_text("raise ImportError")
    result = run_script("hypertune3", tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == "This lesson needs Dask: pip install -r requirements-cluster.txt\n"


@pytest.mark.ci
def test_a_candidate_that_kills_its_workers(folder):
    """As one does that needs too much memory."""
    deadly = """
import os
from sklearn.ensemble import RandomForestClassifier
real = RandomForestClassifier.fit
def fit(self, *args):
    if self.n_estimators == 17:
        os.kill(os.getpid(), 9)
    return real(self, *args)
RandomForestClassifier.fit = fit
"""
    lesson(folder, {"n_estimators": [16, 17], "max_depth": [2]}, before=deadly)
    result = run_script("hypertune3", folder, root=folder, MLFLOW_TRACKING_URI=uri(folder))
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert "\n2 candidates: 1 done, 1 failed, 0 skipped\n" in result.stdout
    (parent,), children = runs_in(uri(folder))
    assert parent.info.status == "FINISHED" and list(finished(children)) == ["16 trees, depth 2"]
    deaths = [child for child in children if child.data.tags["candidate"] == "17 trees, depth 2"]
    statuses = [child.info.status for child in deaths]
    # Dask counts four deaths; one can come before the child is there.
    assert statuses[-1] == "FAILED" and set(statuses[:-1]) == {"KILLED"}
    assert "4 different workers" in deaths[-1].data.tags["error"]


@pytest.mark.ci
def test_where_dasks_port_is_taken(folder):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # by another program already
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        search(folder, {"n_estimators": [16], "max_depth": [2]})


# Going on


def check_resumed(folder, expected, **env):
    """Start the search again after one that ended early: it goes on, and nothing is done twice."""
    (parent,), before = runs_in(uri(folder))
    printed = search(folder, **env)
    assert f"\nGoing on with run {parent.info.run_id}: what finished there isn't" in printed
    counts = r"\n6 candidates: (\d) done, 0 failed, (\d) skipped\n"
    done, skipped = re.search(counts, printed).groups()
    assert int(done) + int(skipped) == 6
    assert int(skipped) >= len(finished(before))  # a worker ends what it has in hand
    children = check_small(uri(folder), expected)
    after = {child.info.run_id for child in finished(children).values()}
    assert {child.info.run_id for child in finished(before).values()} <= after
    assert len(runs_in(uri(folder))[0]) == 1
    models = MlflowClient(uri(folder)).search_logged_models([parent.info.experiment_id])
    assert len(models) == 1
    # Repeated: at most what the workers, one a core, had in hand.
    assert len(children) - len(after) <= os.cpu_count()


SEEDS = [*range(3), *[pytest.param(seed, marks=pytest.mark.ci) for seed in range(3, 20)]]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_search_that_was_killed_goes_on(folder, expected, seed):
    moment = random.Random(seed)
    one = Search(folder)
    # From the first child on, until all are finished and the parent gets its model.
    count = moment.randint(1, 7)
    one.wait_for(*((6, "FINISHED") if count == 7 else (count,)))
    time.sleep(moment.random())
    one.process.kill()
    assert one.end() == -signal.SIGKILL
    check_resumed(folder, expected)


# Its last candidates take long.
LONG = {"n_estimators": [16, 3000], "max_depth": [2]}


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.ci),
    ],
)
def test_an_interrupted_search_is_failed_and_has_no_running_child(folder, number):
    one = Search(folder, LONG)
    one.wait_for(1, "FINISHED")
    one.wait_for(1, "RUNNING")
    if number == signal.SIGINT:
        os.killpg(one.process.pid, number)  # as a terminal does
    else:
        one.process.terminate()
    assert one.end() != 0
    assert one.printed()[1] == INTERRUPTED
    (parent,), children = runs_in(uri(folder))
    assert parent.info.status == "FAILED"
    assert sorted(child.info.status for child in children) == ["FINISHED", "KILLED"]


@pytest.mark.ci
def test_two_at_once_are_two_searches(folder):
    """The second leaves the first one's run alone, and says so."""
    grid = {"n_estimators": [1000, 1001, 1002], "max_depth": [2, 4]}  # takes longer than its start
    one = Search(folder, grid)
    one.wait_for(1)
    printed = search(folder, grid)
    assert one.end() == 0, one.printed()
    (first, second), children = runs_in(uri(folder))
    assert f"\nRun {first.info.run_id} is unfinished, but of other code or data, or" in printed
    for parent in first, second:
        ours = [c for c in children if c.data.tags["mlflow.parentRunId"] == parent.info.run_id]
        assert len(finished(ours)) == len(ours) == 6
        assert parent.info.status == "FINISHED"


@pytest.mark.ci
@pytest.mark.parametrize("ended", [False, True])
def test_a_search_of_another_machine(folder, expected, ended):
    """It may still run there, unless somebody ends its run."""
    one = Search(folder)
    one.wait_for(2, "FINISHED")
    one.process.kill()
    one.end()
    (parent,), _ = runs_in(uri(folder))
    client = MlflowClient(uri(folder))
    client.set_tag(parent.info.run_id, "host", "another")
    if ended:
        client.set_terminated(parent.info.run_id, "KILLED")
        check_resumed(folder, expected)
    else:
        assert f"\nRun {parent.info.run_id} is unfinished, but of" in search(folder)
        (_, new), children = runs_in(uri(folder))
        ours = [c for c in children if c.data.tags["mlflow.parentRunId"] == new.info.run_id]
        assert sorted(finished(ours)) == SMALL_NAMES


@pytest.mark.ci
def test_a_candidate_that_failed_before_a_kill_may_be_the_best(folder):
    """The second start has the memory for it that the first one lacked."""
    first = """
import os, signal
from pathlib import Path
import mlflow.sklearn
from sklearn.ensemble import RandomForestClassifier
if not Path("again").exists():
    real = RandomForestClassifier.fit
    def fit(self, *args):
        if self.n_estimators == 64:
            raise MemoryError("too little")
        return real(self, *args)
    RandomForestClassifier.fit = fit
    mlflow.sklearn.log_model = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
"""
    lesson(folder, {"n_estimators": [16, 64], "max_depth": [8]}, before=first)
    env = {"MLFLOW_TRACKING_URI": uri(folder)}
    assert run_script("hypertune3", folder, root=folder, **env).returncode == -signal.SIGKILL
    (folder / "again").touch()
    result = run_script("hypertune3", folder, root=folder, **env)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert "\n2 candidates: 1 done, 0 failed, 1 skipped\n" in result.stdout
    (parent,), children = runs_in(uri(folder))
    assert parent.info.status == "FINISHED" and parent.data.params["best_n_estimators"] == "64"
    assert sorted(child.info.status for child in children) == ["FAILED", "FINISHED", "FINISHED"]


@pytest.mark.ci
def test_another_program_has_the_number_of_a_dead_search(folder, expected):
    """As after a restart of the machine."""
    one = Search(folder)
    one.wait_for(2, "FINISHED")
    one.process.kill()
    one.end()
    (parent,), _ = runs_in(uri(folder))
    MlflowClient(uri(folder)).set_tag(parent.info.run_id, "process", f"{os.getpid()} of 1")
    check_resumed(folder, expected)


# Workers elsewhere


class Cluster:
    """A scheduler and two workers, each in a folder of its own and without the repo's code."""

    def __init__(self, folder, host="127.0.0.1", hosts=((), (), ()), **env):
        """HOSTS: what starts a process there, for the scheduler and each worker."""
        port = free_port()
        self.address = f"tcp://{host}:{port}"
        self.processes = []
        on, *workers = hosts
        options = ["--host", host, "--port", str(port), "--no-dashboard"]
        self.start(folder / "scheduler", [*on, *DASK, "scheduler", *options])
        for name, on in zip("ab", workers, strict=False):
            self.start(folder / name, [*on, *DASK, "worker", self.address, *ONE], **env)

    def start(self, folder, command, **env):
        folder.mkdir()
        with (folder / "log").open("w") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=folder,
                    env=ENV | env,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def stop(self):
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


DASK = [sys.executable, "-m", "dask"]
ONE = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard"]


@pytest.fixture
def cluster(folder):
    """Its workers have an old run's ID in their environment."""
    old = MlflowClient(uri(folder)).create_run("0").info.run_id
    cluster = Cluster(folder, MLFLOW_RUN_ID=old)
    cluster.old = old
    yield cluster
    cluster.stop()


def test_a_cluster(folder, cluster, expected):
    printed = search(folder, DASK_SCHEDULER_ADDRESS=cluster.address)
    assert "\nRuns go to a file: workers elsewhere need a server, those here its whole" in printed
    check_small(uri(folder), expected)
    old = MlflowClient(uri(folder)).get_run(cluster.old)
    assert (old.data.params, old.data.metrics, old.info.status) == ({}, {}, "RUNNING")


@pytest.mark.ci
def test_dead_scheduler(folder):
    address = f"tcp://127.0.0.1:{free_port()}"
    began = time.monotonic()
    result = start(folder, DASK_SCHEDULER_ADDRESS=address)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert address in result.stderr
    assert time.monotonic() - began < 40
    assert [run.info.status for run in runs_in(uri(folder))[0]] == ["FAILED"]


@pytest.mark.ci
def test_a_scheduler_without_workers(folder, expected):
    cluster = Cluster(folder, hosts=[()])
    try:
        one = Search(folder, DASK_SCHEDULER_ADDRESS=cluster.address)
        told = "Dask's scheduler has no workers: start some, this waits\n"
        deadline = time.monotonic() + 60
        while told not in one.printed()[0]:
            assert one.process.poll() is None and time.monotonic() < deadline, one.printed()
            time.sleep(0.1)
        cluster.start(folder / "a", [*DASK, "worker", cluster.address, *ONE])
        assert (one.end(), one.printed()[1]) == (0, "")
    finally:
        cluster.stop()
    check_small(uri(folder), expected)


@pytest.mark.ci
def test_a_killed_search_goes_on_while_the_cluster_still_fits(folder, cluster):
    env = {"DASK_SCHEDULER_ADDRESS": cluster.address}
    one = Search(folder, LONG, **env)
    one.wait_for(1, "FINISHED")
    one.process.kill()
    one.end()
    search(folder, LONG, **env)
    (parent,), children = runs_in(uri(folder))
    assert parent.info.status == "FINISHED" and len(finished(children)) == 2
    with Client(cluster.address) as dask:  # what the first search had begun ends now
        deadline = time.monotonic() + 120
        while any(dask.processing().values()):
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert len(finished(runs_in(uri(folder))[1])) == 2


@pytest.mark.ci
def test_a_scheduler_that_dies(folder, cluster, expected):
    one = Search(folder, DASK_SCHEDULER_ADDRESS=cluster.address)
    one.wait_for(1, "FINISHED")
    cluster.processes[0].kill()
    began = time.monotonic()
    assert one.end() == 1
    told = "Dask's scheduler is gone: start it and workers, then this script again\n"
    assert one.printed()[1] == told
    assert time.monotonic() - began < 40
    # A worker may just have begun another candidate: its child runs on, or is KILLED on resume.
    assert [parent.info.status for parent in runs_in(uri(folder))[0]] == ["FAILED"]
    check_resumed(folder, expected)


@pytest.mark.ci
def test_a_server_that_is_away_for_a_minute(tmp_path, template, expected):
    shutil.copy(template, tmp_path)
    serve = partial(
        Server,
        tmp_path,
        *["server", "--workers", "1", "--port", str(free_port())],
        *["--backend-store-uri", uri(tmp_path)],
        **WITHOUT_JOBS,
    )
    server = serve()
    one = Search(tmp_path, MLFLOW_TRACKING_URI=server.uri)
    one.wait_for(2, "FINISHED")
    server.stop(signal.SIGKILL)
    time.sleep(60)
    server = serve()
    assert one.end() == 0, one.printed()
    check_small(server.uri, expected)
    (parent,), children = runs_in(server.uri)
    server.stop()
    assert len(children) == 6
    assert "Traceback" not in one.printed()[1]


@pytest.fixture
def hosts():
    """Three hosts of a network of their own: what starts a process on each, and its address."""
    if not shutil.which("ip") or os.geteuid() != 0:
        missing("network namespaces, as root", "iproute2")
    name = f"h3-{os.getpid()}"
    names = [f"{name}-{number}" for number in (1, 2, 3)]
    bridge = f"{name}b"[-15:]

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    try:
        ip("netns", "add", names[0])
        inside = ["-n", names[0]]
        ip(*inside, "link", "add", bridge, "type", "bridge")
        ip(*inside, "addr", "add", "10.99.0.1/24", "dev", bridge)
        for up in "lo", bridge:
            ip(*inside, "link", "set", up, "up")
        for number, host in enumerate(names[1:], 2):
            ip("netns", "add", host)
            ip(*inside, "link", "add", f"to{number}", "type", "veth", "peer", "e0", "netns", host)
            ip(*inside, "link", "set", f"to{number}", "master", bridge, "up")
            ip("-n", host, "addr", "add", f"10.99.0.{number}/24", "dev", "e0")
            for up in "lo", "e0":
                ip("-n", host, "link", "set", up, "up")
        yield [["ip", "netns", "exec", host] for host in names]
    finally:
        for host in names:
            subprocess.run(["ip", "netns", "del", host], check=False)


@pytest.mark.ci
def test_workers_on_two_hosts_and_the_server_on_a_third(tmp_path, hosts, expected):
    """The third also runs the search and Dask's scheduler, as a head node does."""
    head = hosts[0]
    port = str(free_port())
    options = ["--workers", "1", "--host", "0.0.0.0", "--port", port]
    command = ["mlflow", "server", *options, "--allowed-hosts", f"10.99.0.1:{port}"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*head, *command],
            cwd=tmp_path,
            env=ENV | WITHOUT_JOBS,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    cluster = Cluster(tmp_path, "10.99.0.1", hosts)
    try:
        asked = [*head, "curl", "-s", "--retry", "60", "--retry-connrefused", "--retry-delay", "1"]
        health = subprocess.check_output([*asked, f"http://10.99.0.1:{port}/health"], text=True)
        assert health == "OK"
        env = {"MLFLOW_TRACKING_URI": f"http://10.99.0.1:{port}"}
        env |= {"DASK_SCHEDULER_ADDRESS": cluster.address}
        script = lesson(tmp_path) / "src" / "hypertune3.py"
        result = run([*head, sys.executable, script], tmp_path, **env)
        assert (result.returncode, result.stderr) == (0, ""), result.stdout
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        cluster.stop()
    store = f"sqlite:///{tmp_path}/mlflow.db"
    children = check_small(store, expected)
    assert len(children) == 6
    logs = [(tmp_path / name / "log").read_text() for name in "ab"]
    assert ["10.99.0.2" in logs[0], "10.99.0.3" in logs[1]] == [True, True]
