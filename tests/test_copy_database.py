"""server/copy_database.py keeps everything, refuses what it would spoil, and says so in a line."""

import shutil
import sys
from contextlib import closing
from sqlite3 import connect

import mlflow.store.model_registry.dbmodels.models  # noqa: F401 (declares its tables)
import mlflow.store.tracking.dbmodels.models  # noqa: F401
import pytest
import sqlalchemy
from filled import copy_after
from mlflow import MlflowClient
from mlflow.store.db.base_sql_model import Base
from running import ROOT, run, run_script
from sentences import assert_one_sentence, assert_success
from services import Postgres, free_port
from team import need_postgresql

pytestmark = pytest.mark.ci
SCRIPT = ROOT / "server" / "copy_database.py"
MORE = """
import mlflow
client = mlflow.MlflowClient()
client.delete_experiment(client.create_experiment("gone"))
client.create_experiment("elsewhere", artifact_location="file:///srv/other")
with mlflow.start_span("a trace"):
    pass
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with mlflow.db and mlruns: a search, its model with an alias, a trace."""
    folder = tmp_path_factory.mktemp("source")
    copy_after(folder, "hypertune2")
    assert_success(run_script("register_model", folder, root=folder, MLFLOW_TRACKING_URI=""))
    assert run([sys.executable, "-c", MORE], folder).returncode == 0
    return folder


def upgrade(uri, folder):
    """Give the database MLflow's tables."""
    assert run(["mlflow", "db", "upgrade", uri], folder).returncode == 0


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database with MLflow's tables and nothing in them."""
    folder = tmp_path_factory.mktemp("empty")
    upgrade(f"sqlite:///{folder}/empty.db", folder)
    return folder / "empty.db"


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def target(request, empty, tmp_path):
    """The URI of a new database with MLflow's tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{shutil.copy(empty, tmp_path / 'copy.db')}"
    elif request.param == "mariadb":
        uri = request.getfixturevalue("mariadb")
        upgrade(uri, tmp_path)
        yield uri
    else:
        need_postgresql()
        postgres = Postgres()
        uri = postgres.make_database("copied")
        upgrade(uri, tmp_path)
        yield uri
        postgres.remove()


def copy(folder, source, target):
    return run([sys.executable, SCRIPT, source, target], folder)


def rows(uri):
    """{table: its rows, less the columns with file paths and those that the database computes}."""
    held = {}
    with sqlalchemy.create_engine(uri).connect() as database:
        for table in Base.metadata.sorted_tables:
            paths = {"artifact_location", "artifact_uri", "storage_location"}
            columns = [c for c in table.columns if c.name not in paths and not c.computed]
            found = database.execute(sqlalchemy.select(*columns))
            held[table.name] = sorted(repr(row) for row in found)
    return held


def test_everything_is_there_and_it_goes_on(source, target):
    mine = f"sqlite:///{source}/mlflow.db"
    result = copy(source, "sqlite:///mlflow.db", target)
    assert result.returncode == 0, result.stderr
    said = result.stdout.splitlines()
    assert said[0] == "6 runs, 1 models copied"
    assert "1 paths of files" in said[1] and said[1].endswith("stayed: file:///srv/other")
    before, after = rows(mine), rows(target)
    for name in "runs", "metrics", "params", "trace_info", "registered_model_aliases", "datasets":
        assert before[name], name
    assert after == before

    client = MlflowClient(target, registry_uri=target)
    (search,) = client.search_runs(
        [client.get_experiment_by_name("hypertune2").experiment_id], "tags.search LIKE '%'"
    )
    assert search.info.artifact_uri.startswith("mlflow-artifacts:/")
    version = client.get_model_version_by_alias("breast-cancer-forest", "staging")
    assert client.get_model_version_download_uri(version.name, version.version).startswith(
        ("models:/", "mlflow-artifacts:/")
    )
    # New IDs don't collide with the copied ones.
    known = {e.experiment_id for e in client.search_experiments(view_type=3)}
    new = client.create_experiment("new", artifact_location="mlflow-artifacts:/new")
    assert new not in known
    assert client.create_run(new).info.experiment_id == new
    client.restore_experiment(client.get_experiment_by_name("gone").experiment_id)
    assert client.get_experiment_by_name("gone").lifecycle_stage == "active"

    again = copy(source, "sqlite:///mlflow.db", target)
    assert_one_sentence(again, "already, name a new database")
    assert client.get_run(search.info.run_id).data.params == search.data.params


def test_refusals_are_one_sentence(source, empty, tmp_path):
    new, bare = f"sqlite:///{empty}", f"sqlite:///{tmp_path}/bare.db"
    shutil.copy(empty, tmp_path / "registry.db")
    MlflowClient(registry_uri=f"sqlite:///{tmp_path}/registry.db").create_registered_model("kept")
    shutil.copy(source / "mlflow.db", tmp_path / "older.db")
    with closing(connect(tmp_path / "older.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
        database.commit()
    mine, dead = "sqlite:///mlflow.db", f"postgresql+psycopg://127.0.0.1:{free_port()}/x"
    for one, other, words in [
        ("sqlite:///typo.db", new, "there is no file typo.db"),
        ("mlflow.db", new, "Could not parse SQLAlchemy URL"),
        (mine, bare, "no such table"),
        (mine, dead, "connection failed"),
        (f"sqlite:///{tmp_path}/older.db", new, "run `mlflow db upgrade URI` on both"),
        (mine, f"sqlite:///{tmp_path}/registry.db", "holds registered_models already"),
    ]:
        result = copy(source, one, other)
        assert_one_sentence(result, words)
        assert result.stderr.startswith("Nothing was copied: ")
    assert not (source / "typo.db").exists()
    assert rows(new)["runs"] == []
