"""Where the runs go: the one helper that the lessons share. MLflow needs none of it."""

import logging
import os
import re
import shlex
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import mlflow
import sqlalchemy

ROOT = Path(__file__).resolve().parent.parent
# MLflow would take these for other places: "http://x", 127.0.0.1:5000, ~/x, sqlite:///what?/x
MISTAKEN = r"[\"'~]|[\w.-]+:\d|sqlite:(/*$|/*~|.*\?(?!\w+=))|http.*/#"
SECRET = r"((?<=\w://)(?!/)|^(?!file:)(?=[^/\\:]+:[^/\\]))\S+@|(?<=password=)[^&\s]+"


def connect(oldest: int = 3) -> str:  # the oldest major version of MLflow on a server
    """Point MLflow at MLFLOW_TRACKING_URI, or else at this repo's mlflow.db, and try the place.

    Returns the UI's address. Raises SystemExit with one sentence if the place can't be used.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    uri = named or f"sqlite:///{(ROOT / 'mlflow.db').as_posix()}"
    shown, places = re.sub(SECRET, "", uri), {"MLFLOW_TRACKING_URI": uri}
    print(f"Runs go to {shown}", flush=True)
    if registry := os.environ.get("MLFLOW_REGISTRY_URI"):
        places["MLFLOW_REGISTRY_URI"] = registry
        print(f"Models are registered at {re.sub(SECRET, '', registry)}: MLFLOW_REGISTRY_URI")
    if os.environ.pop("MLFLOW_RUN_ID", None):
        print("MLFLOW_RUN_ID is ignored: it would send what this script logs into that old run")
    quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "GIT_PYTHON_REFRESH": "quiet"}
    os.environ |= quiet | {"MLFLOW_ALLOW_FILE_STORE": "true"}  # older tutorials' runs in folders
    logging.getLogger("mlflow").setLevel("WARNING")  # no line for every table created
    calls = logging.getLogger("urllib3.connectionpool")  # it can say that MLflow waits, for minutes
    calls.handlers, calls.propagate = [logging.StreamHandler()], False
    calls.filters = [lambda said: said.levelname != "DEBUG" or said.msg.startswith("Retry")]
    calls.setLevel("DEBUG")
    mlflow.set_tracking_uri(uri)
    one_try = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with chdir("." if named else ROOT), patch.dict(os.environ, one_try):  # ./mlruns too
        for variable, place in places.items():
            try:
                _open(place, oldest)
            except Exception as error:  # each store and driver raises its own
                while (cause := error.__cause__ or error.__context__) and " " in str(cause):
                    error = cause
                told = f"Can't use {variable}={place}: {' '.join(str(error).split())[:300]}"
                told = told.replace(place, re.sub(SECRET, "", place))
                sys.exit(f"{told}; see docs/reference/troubleshooting.md#the-place-for-the-runs")
    ui, option = shown if uri.startswith("http") else "http://127.0.0.1:5000", ""
    if named or Path.cwd() != ROOT:
        option = " --backend-store-uri " + (f'"{uri}"' if os.name == "nt" else shlex.quote(uri))
    looks = {"http": f"open {ui}", "sqlite": f"mlflow ui --port 5000{option}, then open {ui}"}
    look = looks.get(re.split("s?:", uri)[0], "docs/guides/where-runs-go.md says how")
    print(f"See them: {look}", flush=True)
    return ui


def _open(uri, oldest):
    if re.match(MISTAKEN, uri):
        raise OSError("write http://HOST:PORT or sqlite:///FILE, without quotes, ~, ? and #")
    if re.match("sqlite|postgresql|mysql|mssql", uri):
        engine = sqlalchemy.create_engine(uri)
        if engine.name == "sqlite" and not Path(engine.url.database).exists():
            _create(Path(engine.url.database))
        with engine.connect() as connection:
            if engine.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("CREATE TABLE try_to_write (x)")  # rolled back
    client = mlflow.MlflowClient(uri)
    # A server of MLflow 2 has no models of their own, and says 404.
    client.search_logged_models(["0"]) if oldest > 2 else client.search_experiments(max_results=1)


def _create(database):
    """Make it aside and put it in place whole. In place, a kill or a rival leaves a broken one."""
    print("Creating this database, once: some seconds", flush=True)
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent, ignore_cleanup_errors=True) as folder:
        new = Path(folder, database.name)
        mlflow.MlflowClient(f"sqlite:///{new.as_posix()}").search_experiments(max_results=1)
        try:
            os.link(new, database)
        except OSError:  # another first run was quicker; or it is FAT, which has no links
            database.exists() or new.rename(database)
