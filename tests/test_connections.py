"""What server/.env.example says of connections: log_batch takes two of them."""

import threading
import uuid
from collections import Counter

import pytest
from dotenv import dotenv_values
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from running import at_once
from services import WITHOUT_JOBS, Postgres, Server
from team import FOLDER, need_postgresql

pytestmark = pytest.mark.ci
CLIENTS, STEPS = 64, 5
ALL = {STEPS - 1: CLIENTS}
NAME = "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"
ENOUGH = {NAME: dotenv_values(FOLDER / ".env.example")[NAME]}


def log_at_once(server):
    """Log a metric of several steps into each of 64 runs; the last one, or the error, counted."""
    client = MlflowClient(server)
    experiment = client.create_experiment(f"at once {uuid.uuid4()}")
    runs = [client.create_run(experiment).info.run_id for _ in range(CLIENTS)]
    together = threading.Barrier(CLIENTS)

    def log(run_id):
        together.wait()
        try:
            for step in range(STEPS):
                client.log_batch(run_id, metrics=[Metric("accuracy", step, 0, step)])
        except MlflowException as error:
            return str(error).split(" reached")[0]

    found = at_once(*[lambda run_id=run_id: log(run_id) for run_id in runs])
    last = [
        error or client.get_run(run).data.metrics["accuracy"]
        for run, error in zip(runs, found, strict=True)
    ]
    return Counter(last)


@pytest.fixture(scope="module")
def database():
    """A URI of PostgreSQL. In SQLite one writes at a time anyway."""
    need_postgresql()
    postgres = Postgres()
    yield postgres.make_database("many")
    postgres.remove()


def logged(folder, database, **env):
    command = ["server", "--workers", "1", "--backend-store-uri", database]
    server = Server(folder, *command, **WITHOUT_JOBS, **env)
    try:
        return log_at_once(server.uri)
    finally:
        server.stop()


@pytest.mark.facts
def test_sixty_four_clients_block_one_another(tmp_path, database):
    found = logged(tmp_path, database)
    assert set(found) <= {STEPS - 1, "BAD_REQUEST: QueuePool limit of size 5 overflow 10"}
    assert found != ALL


def test_with_more_connections_none_fails(tmp_path, database):
    assert logged(tmp_path, database, **ENOUGH) == ALL


def test_the_teams_server_has_enough(team):
    assert log_at_once(team.uri) == ALL
