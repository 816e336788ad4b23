"""Copy all that one MLflow database holds into another, with the same IDs.

    python server/copy_database.py sqlite:///mlflow.db postgresql+psycopg:///mlflow

MLflow has no command for this; the tables are those that MLflow itself declares. Both databases
need the tables of the installed MLflow (`mlflow db upgrade URI`), the second one nothing in them,
and neither may be in use. Files below ./mlruns get the address that they have on a server: copy
them too, mlruns/1/... to BUCKET/1/...
"""

import sys
from pathlib import Path

import mlflow.store.model_registry.dbmodels.models  # noqa: F401 (declares its tables)
import mlflow.store.tracking.dbmodels.models  # noqa: F401
import sqlalchemy
from mlflow.store.db.base_sql_model import Base

TABLES = Base.metadata.sorted_tables
# Where a local path of files stands: table and column.
PATHS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
FOLDER = str(Path("mlruns").resolve())


def check(source, target):
    """Raise OSError where copying would lose something."""
    if source.name == "sqlite" and not Path(source.url.database).exists():
        raise OSError(f"there is no file {source.url.database}")
    with source.connect() as old, target.connect() as new:
        version = sqlalchemy.text("SELECT version_num FROM alembic_version")
        if old.scalar(version) != new.scalar(version):
            raise OSError("the two have other tables, run `mlflow db upgrade URI` on both")
        for table in TABLES:
            found = new.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(table))
            # A new one holds the default workspace and the default experiment.
            if found > (table.name in ("workspaces", "experiments")):
                raise OSError(f"the second one holds {table.name} already, name a new database")


def new_path(path):
    """PATH as a server's clients name it, where it is below ./mlruns; else as it was."""
    local = (path or "").removeprefix("file://")
    return "mlflow-artifacts:" + local[len(FOLDER) :] if local.startswith(f"{FOLDER}/") else path


def copy(source, target):
    """Copy every table; return the number of rows by table, and the file paths that stayed."""
    counts, stayed = {}, set()
    with source.connect() as old, target.begin() as new:
        if target.name == "mysql":  # would take the default experiment's 0 for "the next ID"
            new.exec_driver_sql("SET sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_VALUE_ON_ZERO')")
        for table in reversed(TABLES):  # what MLflow makes in every new database
            new.execute(table.delete())
        for table in TABLES:
            columns = [column for column in table.columns if not column.computed]
            rows = [dict(row) for row in old.execute(sqlalchemy.select(*columns)).mappings()]
            for row in rows if table.name in PATHS else []:
                path = row[PATHS[table.name]] = new_path(row[PATHS[table.name]])
                if (path or "").startswith(("/", "file:")):
                    stayed.add(path)
            if rows:
                new.execute(table.insert(), rows)
                counts[table.name] = len(rows)
        if target.name == "postgresql":  # the next ID that it gives
            new.exec_driver_sql(
                "SELECT setval(pg_get_serial_sequence('experiments', 'experiment_id'), "
                "greatest(max(experiment_id), 1)) FROM experiments"
            )
    return counts, stayed


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        engines = [sqlalchemy.create_engine(uri) for uri in sys.argv[1:]]
        check(*engines)
        counts, stayed = copy(*engines)
    except Exception as error:  # each driver raises its own
        sys.exit(f"Nothing was copied: {str(error).splitlines()[0]}")
    print(f"{counts.get('runs', 0)} runs, {counts.get('logged_models', 0)} models copied")
    if stayed:
        print(f"{len(stayed)} paths of files aren't below {FOLDER} and stayed: {min(stayed)}")
