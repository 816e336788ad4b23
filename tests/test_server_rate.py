"""benchmarks/server_rate.py measures what it says: whole runs, on each server."""

import re
import runpy

import pytest
from mlflow import MlflowClient
from running import ROOT, WITHOUT_JOBS, Server

pytestmark = pytest.mark.slow
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "server_rate.py"))
PAGE = (ROOT / "docs" / "benchmarks.md").read_text()


def test_a_run_holds_what_is_said_and_each_counts(tmp_path):
    server = Server(tmp_path, "server", "--workers", "1", **WITHOUT_JOBS)
    try:
        client = MlflowClient(server.uri)
        experiment = client.create_experiment("rate")
        found = BENCHMARK["rate"](server.uri, experiment, 2, 1)
        runs = client.search_runs([experiment], max_results=1000)
    finally:
        server.stop()
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {(len(run.data.params), len(run.data.metrics)) for run in runs} == {(2, 9)}
    assert len(runs) / 3 < found <= len(runs)  # in a second and what was under way then


def test_the_page_shows_its_table():
    """All servers, in its order; where the wait is, the figures show it."""
    rates = BENCHMARK["measure"](1, 0.5)
    section = re.search(r"## Through a server.*?(?=\n## )", PAGE, re.DOTALL)[0]
    shown = [row for row in section.splitlines() if row.startswith("|")]
    made = BENCHMARK["table"](rates).splitlines()
    assert [row.split("|")[1:4] for row in made] == [row.split("|")[1:4] for row in shown]
    waiting = rates["SQLite", "2, without uvloop", 1][0]
    assert waiting < 8  # three calls of 40 ms and more
    assert all(found[0] > 0 for found in rates.values())
