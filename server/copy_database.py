"""Copy all that one MLflow database holds into another, with the same IDs.

    python server/copy_database.py sqlite:///mlflow.db postgresql+psycopg:///mlflow

MLflow has no command for this; the tables are those that MLflow itself declares. Both databases
need the tables of the installed MLflow (`mlflow db upgrade URI`), the second one without runs, and
neither may be in use. Files below ./mlruns get the address that they have on a server: copy them
too, mlruns/1/... to BUCKET/1/...
"""

import sys
from pathlib import Path

import mlflow.store.model_registry.dbmodels.models  # noqa: F401 (declares its tables)
import sqlalchemy
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking.dbmodels.models import SqlRun

# Where a local path of files stands: table and column.
PATHS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


def new_path(path, folder):
    """PATH of a file below FOLDER, a local mlruns, as the server's clients name it."""
    path = (path or "").removeprefix("file://")
    return path.replace(folder, "mlflow-artifacts:", 1) if path.startswith(folder) else path


def copy(source, target, folder):
    """Copy every table; return the number of rows by table."""
    tables = Base.metadata.sorted_tables
    counts = {}
    with source.connect() as old, target.begin() as new:
        if new.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(SqlRun)):
            sys.exit(f"{target.url} holds runs already: name a database without any")
        for table in reversed(tables):  # what MLflow makes in every new database
            new.execute(table.delete())
        for table in tables:
            rows = [dict(row) for row in old.execute(table.select()).mappings()]
            for row in rows:
                if column := PATHS.get(table.name):
                    row[column] = new_path(row[column], folder)
            if rows:
                new.execute(table.insert(), rows)
                counts[table.name] = len(rows)
        if target.name == "postgresql":  # the next ID that it gives
            new.exec_driver_sql(
                "SELECT setval(pg_get_serial_sequence('experiments', 'experiment_id'), "
                "max(experiment_id)) FROM experiments"
            )
    return counts


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    old, new = (sqlalchemy.create_engine(uri) for uri in sys.argv[1:])
    counts = copy(old, new, str(Path("mlruns").resolve()))
    print(f"{counts['runs']} runs, {counts.get('logged_models', 0)} models copied")
