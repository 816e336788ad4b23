"""benchmarks/server_rate.py measures what it says: whole runs, on each server."""

import signal
import socket
import sys
import time

import pytest
import server_rate as benchmark
from doc_tables import tables
from mlflow import MlflowClient
from services import Service, free_port
from team import need_postgresql

pytestmark = pytest.mark.ci
ALL = benchmark.SERVERS
WAITING = "SQLite", "2, without uvloop"
# A server whose worker holds the port a second longer than the server lives.
LATE = """
import os, socket, sys, time
server = os.getpid()
if os.fork():
    time.sleep(60)
os.setsid()
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    while os.getppid() == server:
        time.sleep(0.01)
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def servers():
    """One of each kind: the others only have a second worker."""
    need_postgresql()
    few = [("SQLite", "1"), WAITING, ("PostgreSQL", "1")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "SERVERS", {key: ALL[key] for key in few})
        with benchmark.servers() as started:
            yield started


def test_a_stopped_service_has_left_its_port(tmp_path):
    port = free_port()
    Service([sys.executable, "-c", LATE, str(port)], tmp_path, port).stop(signal.SIGKILL)
    socket.create_server(("127.0.0.1", port)).close()


def test_a_run_holds_what_is_said_and_each_counts(servers):
    server = servers["SQLite", "1"]
    client = MlflowClient(server.uri)
    experiment = client.create_experiment("one second")
    began = time.perf_counter()
    found = benchmark.rate(server.uri, experiment, 2, 1)
    took = time.perf_counter() - began
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {(len(run.data.params), len(run.data.metrics)) for run in runs} == {(2, 9)}
    assert len(runs) / took < found <= len(runs)  # in a second and what was under way then


def test_each_is_measured_and_without_uvloop_each_call_waits(servers):
    rates = benchmark.measure(servers, 1, 0.5)
    assert list(rates) == [(*key, clients) for clients in (1, 8) for key in servers]
    ((rate,), others) = rates.pop((*WAITING, 1)), rates.values()
    assert rate < 1 / (3 * 0.04)  # three calls of 40 ms and more
    assert all(other > 0 for (other,) in others)


def test_the_page_shows_its_rows():
    rates = {(*key, clients): [1] for clients in (1, 8) for key in ALL}
    made = [row.split(" | ")[:3] for row in benchmark.table(rates).splitlines()[2:]]
    shown = tables("benchmarks.md")["Through a server: SQLite or PostgreSQL, one worker or two"]
    assert made == [[f"| {row[0]}", *row[1:3]] for row in shown]
