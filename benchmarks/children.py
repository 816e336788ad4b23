"""What one logged child run costs, by the form of logging, the store and the number of children.

    pip install -r tests/requirements.txt          # and PostgreSQL: apt-get install postgresql
    python benchmarks/children.py                  # some seven minutes

Each store holds one search: a parent and its children, rows like those of a child that MLflow has
logged. A form logs the last 8 (2 params, 9 metrics), which are timed and then removed, so that the
next form finds as many. All forms take turns. Only "one table" makes no children: it logs the whole
search by one call. Printed are medians over the rounds [least, most]: of "separate" the
milliseconds for each child, of the others the ratio to it in the same round; then of each form the
ratio to its own with the fewest children. docs/images/children.png shows both.
"""

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import product
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import measure as tools
import mlflow
import pandas as pd
import sqlalchemy
from measure import ratios, spread
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.store.tracking.dbmodels import models
from services import WITHOUT_JOBS, Postgres, Server

LAST = 8
THREADS = 4
STORES = ["SQLite", "SQLite, WAL", "server on SQLite", "PostgreSQL"]
# Told apart by the colour-blind too: Okabe and Ito's.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
PARAMS = {"n_estimators": 128, "max_depth": 8}
METRICS = {f"split{fold}_test_score": 0.9 + fold / 100 for fold in range(5)}
METRICS |= {"mean_test_score": 0.9, "std_test_score": 0.1, "rank_test_score": 1, "mean_fit_time": 1}
# All that MLflow writes of a child.
MODELS = [models.SqlRun, models.SqlTag, models.SqlParam, models.SqlMetric, models.SqlLatestMetric]
TABLES = [model.__table__ for model in MODELS]


def separate():
    """One call a value, as most tutorials do it."""
    with mlflow.start_run(nested=True):
        for key, value in PARAMS.items():
            mlflow.log_param(key, value)
        for key, value in METRICS.items():
            mlflow.log_metric(key, value)


def batched(**options):
    """hypertune2's form."""
    with mlflow.start_run(nested=True, **options):
        mlflow.log_params(PARAMS)
        mlflow.log_metrics(METRICS)


def client():
    """MlflowClient, without the active run: three calls."""
    api = MlflowClient()
    parent = mlflow.active_run().info
    tags = {"mlflow.parentRunId": parent.run_id}
    child = api.create_run(parent.experiment_id, tags=tags).info.run_id
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in METRICS.items()]
    params = [Param(key, str(value)) for key, value in PARAMS.items()]
    api.log_batch(child, metrics=metrics, params=params)
    api.set_terminated(child)


def asynchronous():
    """hypertune2's form, its calls not waiting for the store."""
    with mlflow.start_run(nested=True):
        mlflow.log_params(PARAMS, synchronous=False)
        mlflow.log_metrics(METRICS, synchronous=False)


def buffered():
    """The same, by MLflow's buffer."""
    with mock.patch.dict(os.environ, MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS="1"):
        asynchronous()


def threads(store, count):
    """hypertune2's form from several threads, which have to be told the parent."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: batched(parent_run_id=store.parent), range(count)))


def one_table(store, count):
    """An artifact of the parent, with a row for each candidate."""
    mlflow.log_table(pd.DataFrame([PARAMS | METRICS] * count), f"{uuid.uuid4().hex}.json")


def floor(store, count):
    """The rows of a child, inserted by Python's sqlite3: one commit each."""
    with closing(sqlite3.connect(store.engine.url.database)) as connection:
        for _ in range(count):
            with connection:
                for table, rows in store.another().items():
                    connection.executemany(str(sqlalchemy.insert(table)), rows)


def each(form):
    """FORM for one child after the other."""
    return lambda store, count: [form() for _ in range(count)]


FORMS = {form.__name__: each(form) for form in (separate, batched, client)}
FORMS |= {f"{THREADS} threads": threads, "floor": floor, "one table": one_table}
FORMS |= {"asynchronous": each(asynchronous), "asynchronous, buffered": each(buffered)}


def forms(store, count):
    """The names of those measured there: of many children, not those that wait or make none."""
    names = list(FORMS) if count <= 100 else list(FORMS)[:5]
    return [name for name in names if name != "floor" or store.startswith("SQLite")]


class Store:
    """Where MLflow logs: a parent with COUNT children, of which the last are still to come."""

    def __init__(self, uri, database, count):
        self.uri, self.count = uri, count
        self.engine = sqlalchemy.create_engine(database)
        api = MlflowClient(uri, registry_uri=uri)
        self.experiment = api.create_experiment("children")
        self.parent = api.create_run(self.experiment).info.run_id
        with self.search():
            batched()
        runs = api.search_runs([self.experiment], f"tags.mlflow.parentRunId = '{self.parent}'")
        (self.first,) = [run.info.run_id for run in runs]
        with self.engine.begin() as connection:
            self.rows = {}
            for table in TABLES:
                query = sqlalchemy.select(table).where(table.c.run_uuid == self.first)
                self.rows[table] = [dict(row) for row in connection.execute(query).mappings()]
            for _ in range(count - LAST):
                for table, rows in self.another().items():
                    connection.execute(sqlalchemy.insert(table), rows)
        self.remove([self.first])
        self.kept = self.run_ids()

    def search(self):
        """The parent as the active run."""
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_experiment(experiment_id=self.experiment)
        return mlflow.start_run(run_id=self.parent)

    def another(self):
        """The first child's rows with another ID."""
        new = uuid.uuid4().hex
        return {
            table: [
                {k: v.replace(self.first, new) if isinstance(v, str) else v for k, v in row.items()}
                for row in rows
            ]
            for table, rows in self.rows.items()
        }

    def run_ids(self):
        """All runs that there are."""
        with self.engine.connect() as connection:
            return set(connection.scalars(sqlalchemy.select(models.SqlRun.run_uuid)))

    def remove(self, run_ids):
        """Delete these runs, all their rows."""
        with self.engine.begin() as connection:
            for table in reversed(TABLES):
                connection.execute(sqlalchemy.delete(table).where(table.c.run_uuid.in_(run_ids)))

    def cost(self, name):
        """Log the last children by this form; return milliseconds for each."""
        table = name == "one table"
        count = self.count if table else LAST
        with self.search():
            began = time.perf_counter()
            FORMS[name](self, count)
            spent = time.perf_counter() - began
        logged = self.run_ids() - self.kept
        assert len(logged) == (0 if table else count), name
        self.remove(logged)
        return spent / count * 1000


@contextmanager
def make_stores(counts):
    """{(name, count): store}: SQLite for all counts, the others up to 100."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)  # where MLflow will put mlruns
        postgres, stores = Postgres(), {}
        stack.callback(postgres.remove)
        for number, (name, count) in enumerate(product(STORES, counts)):
            if name != "SQLite" and count > 100:
                continue
            place = folder / str(number)
            place.mkdir()
            uri = database = f"sqlite:///{place}/mlflow.db"
            if name == "SQLite, WAL":
                with closing(sqlite3.connect(place / "mlflow.db")) as connection:
                    connection.execute("PRAGMA journal_mode = WAL")
            elif name == "server on SQLite":
                command = ["server", "--workers", "1", "--backend-store-uri", database]
                server = Server(place, *command, **WITHOUT_JOBS)
                stack.callback(server.stop)
                uri = server.uri
            elif name == "PostgreSQL":
                uri = database = postgres.make_database(f"bench{number}")
            stores[name, count] = Store(uri, database, count)
        yield stores


def measure(stores, rounds):
    """{(store, count): {form: milliseconds for each child, by round}}."""
    costs = {key: {form: [] for form in forms(*key)} for key in stores}
    counts = dict.fromkeys(count for _, count in stores)
    # What is compared follows closely: by form, and in each form by number of children.
    for _, name, form, count in product(range(rounds), STORES, FORMS, counts):
        if form in costs.get((name, count), {}):
            costs[name, count][form].append(stores[name, count].cost(form))
    return costs


def by_form(costs):
    """COSTS as a table of Markdown: the forms side by side."""
    rows = []
    for (store, count), found in costs.items():
        base = found["separate"]
        cells = [spread(base, 1, " ms")]
        for form in list(FORMS)[1:]:
            digits = 3 if form == "one table" else 2
            cells.append(spread(ratios(found[form], base), digits) if form in found else "")
        rows.append([store, f"{count:,}", *cells])
    return tools.table(["Store", "Children", *FORMS], rows)


def by_count(costs):
    """Of a child in SQLite, by form, the ratio to its cost with the fewest children."""
    counts = [count for store, count in costs if store == "SQLite"]
    rows = []
    for form in costs["SQLite", counts[-1]]:
        base = costs["SQLite", counts[0]][form]
        cells = [spread(ratios(costs["SQLite", count][form], base)) for count in counts]
        rows.append([form, *cells])
    return tools.table(["Form", *(f"{count:,} children" for count in counts)], rows)


def finding(costs):
    """What the picture shows, as its title."""
    bulk, growth = [], []
    keys = [key for key in costs if key[0] == "SQLite"]
    first, last = keys[0], keys[-1]
    for form in "batched", "client":
        bulk += [statistics.median(ratios(one[form], one["separate"])) for one in costs.values()]
        growth.append(statistics.median(ratios(costs[last][form], costs[first][form])))
    return (
        f"A child logged in bulk costs {min(bulk):.2f} to {max(bulk):.2f} of one logged call by "
        f"call,\nand with {last[1]:,} children {min(growth):.2f} to {max(growth):.2f} of what it "
        f"does with {first[1]:,}"
    )


def picture(costs):
    """Draw the two tables: the forms at the most children that all stores have, and the growth."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.8), layout="constrained", width_ratios=[3, 2]
    )
    figure.suptitle(finding(costs))
    most = max(count for store, count in costs if store == STORES[-1])
    names = list(FORMS)[1:]
    for number, (store, colour, marker) in enumerate(zip(STORES, COLOURS, "osD^", strict=True)):
        found = costs[store, most]
        for place, form in enumerate(names):
            if form in found:
                values = ratios(found[form], found["separate"])
                y = place + (number - 1.5) / 6
                left.plot([min(values), max(values)], [y, y], color=colour)
                point = left.plot(statistics.median(values), y, marker, color=colour)
        point[0].set_label(store)
    left.axvline(1, color="grey", linestyle=":")
    left.set(
        xscale="log",
        xlabel=f"cost of a child to that of separate calls ({most:,} children)",
        yticks=range(len(names)),
        yticklabels=names,
    )
    left.xaxis.set_major_formatter("{x:g}")
    left.invert_yaxis()
    left.legend()
    counts = [count for store, count in costs if store == "SQLite"]
    shown = ["separate", "batched", "client", "floor"]
    for number, (form, colour, marker) in enumerate(zip(shown, COLOURS, "osD^", strict=True)):
        places = [count * 1.08 ** (number - 1.5) for count in counts]  # side by side
        base = costs["SQLite", counts[0]][form]
        every = [ratios(costs["SQLite", count][form], base) for count in counts]
        middle = [statistics.median(values) for values in every]
        low = [mid - min(values) for mid, values in zip(middle, every, strict=True)]
        high = [max(values) - mid for mid, values in zip(middle, every, strict=True)]
        right.errorbar(
            places, middle, [low, high], color=colour, marker=marker, capsize=3, label=form
        )
    right.set(
        xscale="log",
        xlabel="children of the parent (SQLite)",
        ylabel=f"cost of a child to that with {counts[0]:,} children",
        xticks=counts,
        xticklabels=[f"{count:,}" for count in counts],
        ylim=(0, None),
    )
    right.legend()
    tools.save(figure, "children")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    counts, note = [16, 100, 1000, 10000], "of a parent, ascending; the first from 8 to 100"
    parser.add_argument("--counts", type=int, nargs="+", default=counts, help=note)
    options = parser.parse_args()
    tools.quiet()
    with make_stores(options.counts) as stores:
        costs = measure(stores, options.rounds)
    print(by_form(costs), by_count(costs), finding(costs), sep="\n\n")
    picture(costs)
