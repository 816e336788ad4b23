"""The benchmarks of hypertune3 on a cluster run real searches, and the page shows their rows."""

import os

import cluster
import pytest
import resume
import workers
from doc_tables import tables
from lessons import copy_with_grid
from running import uri
from searches import finished, searches_in
from sklearn.model_selection import cross_validate
from team import need_postgresql

import hypertune3

pytestmark = pytest.mark.ci
PAGE = tables("benchmarks.md")
SMALL = {"n_estimators": [16], "max_depth": [2, 8]}


@pytest.fixture(scope="module")
def started():
    """The servers by database, and the process ID of PostgreSQL."""
    need_postgresql()
    with pytest.MonkeyPatch.context() as patch, cluster.servers() as servers:
        patch.setattr(cluster, "PROCESSES", 1)
        yield servers
    hypertune3.cross_validate = cross_validate


def test_simulated_workers_log_what_real_ones_do(started, monkeypatch):
    servers, _ = started
    monkeypatch.setattr(cluster, "PROCESSES", 2)
    with cluster.workers(4) as four:
        assert len(four.workers) == 2
        for server in servers.values():
            assert cluster.search(server.uri, 5, 2) > 4
            ((parent, children),) = searches_in(server.uri, "cluster")
            assert len(finished(children)) == 5
            for child in children:
                assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
                assert child.data.params["max_depth"] == "8"
                assert len(child.data.metrics) == 8
                assert child.data.metrics["mean_fit_time"] == pytest.approx(0.4)
            order = sorted(child.info.start_time for child in children)
            ends = sorted(child.info.end_time for child in children)
            assert order[3] < ends[0]  # four at once


def test_efficiencies_have_the_rows_of_the_page(started):
    servers, _ = started
    found = cluster.efficiencies(servers, [2], 1, 0.5)
    assert set(found) == {(row[0], 2) for row in PAGE["64 workers and one server"]}
    assert all(0.1 < value <= 1 for (value,) in found.values())
    assert found[cluster.ALONE, 2] > found["SQLite", 2]


def test_costs_have_the_rows_of_the_page(started):
    made = cluster.costs(*started, 2, 1, 4)
    assert [row[0] for row in PAGE["What limits them"]] == list(made)
    (sqlite,), (postgresql,) = made["SQLite"], made["PostgreSQL"]
    # Meanwhile PostgreSQL has work of its own, such as autovacuum.
    assert sqlite.pop("PostgreSQL") >= 0
    assert all(value > 0 for cost in (sqlite, postgresql) for value in cost.values())


def test_one_and_two_workers_do_the_same_search(tmp_path):
    found = workers.measure(1, SMALL, tmp_path)
    rows = PAGE["A second worker"]
    assert [list(key) for key in found] == [[what, int(count)] for what, count, *_ in rows]
    assert all(0 < search < whole for ((whole, search),) in found.values())
    made = searches_in(uri(tmp_path))
    assert [parent.info.status for parent, _ in made] == ["FINISHED"] * 4  # two to warm up
    for _, children in made:
        assert len(children) == 2
        assert len(finished(children)) == 2


def test_a_kill_and_what_is_repeated(folder):
    script = copy_with_grid(folder, "hypertune3", SMALL | {"n_estimators": [16, 64]})
    kill = resume.kill_and_resume(script, folder, 2, 0.1)
    at_kill, under_way, repeated = kill
    assert at_kill >= 2 and repeated <= under_way <= os.cpu_count()
    ((parent, children),) = searches_in(uri(folder))
    assert parent.info.status == "FINISHED"
    assert len(children) == 4 + repeated
    assert len(finished(children)) == 4
    assert resume.table([kill]).splitlines()[2] == f"| {at_kill} | {under_way} | {repeated} |"
