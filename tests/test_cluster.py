"""hypertune3 on workers that it didn't start, and its runs on a server."""

import signal
import socket
import sys
import time
from functools import partial

import pytest
from clusters import Cluster, three_hosts
from dask.distributed import Client
from lessons import copy_with_grid
from mlflow import MlflowClient
from running import at_once, run, uri
from searches import (
    ONE,
    RESULT,
    THREE,
    TWO,
    BackgroundSearch,
    assert_found,
    assert_goes_on,
    finished,
    hold,
    kill_before,
    run_search,
    search,
    searches_in,
    statuses,
    wait_until,
)
from sentences import assert_one_sentence
from services import WITHOUT_JOBS, Server, free_port

pytestmark = pytest.mark.ci


@pytest.fixture
def cluster(folder):
    """Its two workers hold a fit of 32 trees."""
    cluster = Cluster(folder)
    for name in "ab":
        cluster.add_worker(name, **hold(folder, 32))
    yield cluster
    cluster.stop()


def test_a_scheduler_whose_workers_come_later_and_have_the_password(folder):
    """It isn't sent to them. Nor does the ID of an old run in their environment matter."""
    old = MlflowClient(uri(folder)).create_run("0").info.run_id
    server = Server(folder, "server", "--workers", "1", **WITHOUT_JOBS)
    address = server.uri.replace("://", "://ada:secret@")
    cluster = Cluster(folder)
    try:
        env = {"MLFLOW_TRACKING_URI": address, "DASK_SCHEDULER_ADDRESS": cluster.address}
        one = BackgroundSearch(folder, TWO, **env)
        told = "Dask's scheduler has no workers: start some, this waits\n"
        one.wait_until(lambda: told in one.printed()[0])
        for name in "ab":
            cluster.add_worker(name, MLFLOW_TRACKING_URI=address, MLFLOW_RUN_ID=old)
        assert (one.end(), one.printed()[1]) == (0, "")
    finally:
        cluster.stop()
        server.stop()
    printed = one.printed()[0]
    told = "MLFLOW_TRACKING_URI has a password: workers elsewhere need it in their environment\n"
    assert told in printed and "secret" not in printed
    ((parent, children),) = searches_in(uri(folder))
    assert len(children) == 2
    assert_found(parent, children, TWO)
    old = MlflowClient(uri(folder)).get_run(old)
    assert (old.data.params, old.data.metrics, old.info.status) == ({}, {}, "RUNNING")


def test_dead_scheduler(folder):
    address = f"tcp://127.0.0.1:{free_port()}"
    began = time.monotonic()
    result = run_search(folder, ONE, DASK_SCHEDULER_ADDRESS=address)
    assert_one_sentence(result, address)
    assert time.monotonic() - began < 40
    ((parent, children),) = searches_in(uri(folder))
    assert (parent.info.status, children) == ("FAILED", [])


@pytest.fixture
def killed(folder, cluster):
    """The patch of a search that was killed while a worker fits on."""
    kill = kill_before(RESULT, 1, after=folder / "fitted")
    result = run_search(folder, TWO, kill, DASK_SCHEDULER_ADDRESS=cluster.address)
    assert result.returncode == -signal.SIGKILL
    ((parent, children),) = searches_in(uri(folder))
    assert (parent.info.status, statuses(children)) == ("RUNNING", ["RUNNING", "RUNNING"])
    return kill


def test_a_worker_that_logs_what_another_start_has_done(folder, killed):
    """The search goes on with workers here; then the old worker ends its fit."""
    printed = search(folder, TWO, killed, "--resume")
    assert "\n2 candidates: 2 finished, 0 of them earlier\n" in printed
    (folder / "go").touch()

    def old():
        ((_, children),) = searches_in(uri(folder))
        assert statuses(children) == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
        return [child for child in children if child.info.status == "KILLED"]

    wait_until(lambda: all("mean_test_score" in child.data.metrics for child in old()), 120, old)
    ((parent, children),) = searches_in(uri(folder))
    assert_found(parent, children, TWO)


def test_a_killed_search_goes_on_while_the_cluster_still_fits(folder, killed, cluster):
    def runs():
        return statuses(searches_in(uri(folder))[-1][1])

    def let_fit_end():
        wait_until(lambda: "KILLED" in runs(), 120, runs)  # the second start has begun
        (folder / "go").touch()

    again = partial(search, folder, TWO, killed, "--resume", DASK_SCHEDULER_ADDRESS=cluster.address)
    at_once(again, let_fit_end)
    with Client(cluster.address) as dask:
        fits = partial(dask.run, lambda dask_worker: len(dask_worker.state.executing))
        wait_until(lambda: not any(fits().values()), 120, fits)
    ((parent, children),) = searches_in(uri(folder))
    assert statuses(children) == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
    assert_found(parent, children, TWO)


def test_a_scheduler_that_dies(folder, cluster):
    kill = kill_before(RESULT, 1, victim=cluster.processes[0].pid)
    # Dask says this only if it sends something in the same moment.
    kill = kill.replace(
        ", 9)\n",
        """, 9)
        import logging
        logging.getLogger("distributed.batched").error("Batched Comm Closed")
""",
    )
    result = run_search(folder, THREE, kill, DASK_SCHEDULER_ADDRESS=cluster.address)
    assert time.time() - (folder / "killed").stat().st_mtime < 40
    assert result.returncode == 1
    told = f"Dask's scheduler {cluster.address} is gone: start it and workers, then continue\n"
    assert result.stderr == told
    # A worker may just have begun another candidate: its child runs on, or is KILLED on resume.
    ((parent, children),) = searches_in(uri(folder))
    assert parent.info.status == "FAILED" and finished(children)
    assert_goes_on(folder, kill, parent.info.run_id)


def test_a_server_that_is_away(folder):
    """The search goes on, and nothing is lost or logged twice."""
    port = free_port()
    command = ["server", "--workers", "1", "--port", str(port), "--backend-store-uri", uri(folder)]
    server = Server(folder, *command, **WITHOUT_JOBS)
    one = BackgroundSearch(folder, TWO, MLFLOW_TRACKING_URI=server.uri, **hold(folder, 32))
    one.wait_for_held()
    server.stop(signal.SIGKILL)
    (folder / "go").touch()
    # MLflow tries at once, again after less than a second, then after 4, 8, 16, 32, 64.
    with socket.create_server(("127.0.0.1", port)) as away:
        away.settimeout(120)
        for _ in range(3):
            away.accept()[0].close()
    server = Server(folder, *command, **WITHOUT_JOBS)
    code, printed = one.end(), one.printed()
    server.stop()
    assert code == 0 and "Traceback" not in printed[1], printed
    ((parent, children),) = searches_in(uri(folder))
    assert len(children) == 2
    assert_found(parent, children, TWO)


def test_workers_on_two_hosts_and_the_server_on_a_third(folder):
    """The third also runs the search and Dask's scheduler, as a head node does."""
    with three_hosts() as (head, *others):
        cluster = Cluster(folder, "10.99.0.1", head)
        try:
            server = f"10.99.0.1:{free_port()}"
            options = ["--workers", "1", "--host", "0.0.0.0", "--port", server.split(":")[1]]
            options += ["--allowed-hosts", server, "--backend-store-uri", uri(folder)]
            cluster.start("server", [*head, "mlflow", "server", *options])
            for name, host in zip("ab", others, strict=True):
                cluster.add_worker(name, host)
            asked = [*head, "curl", "-s", "--retry", "60", "--retry-connrefused"]
            health = run([*asked, "--retry-delay", "1", f"http://{server}/health"], folder)
            assert health.stdout == "OK"
            script = copy_with_grid(folder, "hypertune3", THREE)
            env = {"MLFLOW_TRACKING_URI": f"http://{server}"}
            env |= {"DASK_SCHEDULER_ADDRESS": cluster.address}
            result = run([*head, sys.executable, script], folder, **env)
            assert (result.returncode, result.stderr) == (0, ""), result.stdout
        finally:
            cluster.stop()
    ((parent, children),) = searches_in(uri(folder))
    assert len(children) == 3
    assert_found(parent, children, THREE)
    logs = [(folder / name / "log").read_text() for name in "ab"]
    assert ["10.99.0.2" in logs[0], "10.99.0.3" in logs[1]] == [True, True]
