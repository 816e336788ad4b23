"""How soon Optuna finds the grid's best score, and what a trial costs in each way to log it.

    pip install -r tests/requirements.txt
    python benchmarks/optuna_search.py             # some five minutes

The searches are those of src/hypertune_optuna.py and src/hypertune2.py, each with 20 seeds. The
grid is tried in 20 random orders. A fit is looked up instead of repeated: of a forest of 128 trees,
the first n are the forest of n trees. Its seconds are the share of n in those of 128. What a trial
costs is measured on SQLite, without any fit, in rounds in which the ways take turns.
"""

import argparse
import itertools
import math
import random
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median_high

import matplotlib.pyplot as plt
import measure as tools
import mlflow
import numpy as np
import optuna
from measure import ratios, spread
from mlflow.optuna.storage import MlflowStorage
from optuna_integration import MLflowCallback
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, train_test_split

SEEDS, TRIALS, FOLDS, MOST = 20, 100, 5, 128
GRID = list(itertools.product([16, 32, 64, 128], [2, 4, 8, None]))


def look_up(depths=(*range(2, 17), None), most=MOST):
    """{(trees, depth): [(score, seconds) for each fold]} of all forests of up to MOST trees."""
    X, y = load_breast_cancer(return_X_y=True)
    X, _, y, _ = train_test_split(X, y, test_size=0.2, random_state=42)
    found = {}
    for depth, (fit, test) in itertools.product(depths, StratifiedKFold(FOLDS).split(X, y)):
        began = time.perf_counter()
        forest = RandomForestClassifier(most, max_depth=depth, random_state=42).fit(X[fit], y[fit])
        seconds = (time.perf_counter() - began) / most
        votes = np.cumsum([tree.predict_proba(X[test]) for tree in forest.estimators_], axis=0)
        for trees, vote in enumerate(votes, 1):
            score = float(np.mean(vote.argmax(axis=1) == y[test]))
            found.setdefault((trees, depth), []).append((score, seconds * trees))
    return found


def by_grid(seed, fits):
    """The candidates of hypertune2 in a random order: score and seconds of each."""
    for candidate in random.Random(seed).sample(GRID, len(GRID)):
        scores, seconds = zip(*fits[candidate], strict=True)
        yield np.mean(scores), sum(seconds)


def suggest(trial):
    """The trees and the depth of a trial of hypertune_optuna."""
    return trial.suggest_int("n_estimators", 16, 128), trial.suggest_int("max_depth", 2, 16)


def by_sampler(sampler, fits, trials):
    """The trials of hypertune_optuna with another SAMPLER; a pruned one has no score."""
    spent = {}

    def objective(trial):
        scores, spent[trial.number] = [], 0
        for fold, (score, seconds) in enumerate(fits[suggest(trial)]):
            scores.append(score)
            spent[trial.number] += seconds
            trial.report(np.mean(scores), fold)
            if trial.should_prune():
                raise optuna.TrialPruned
        return np.mean(scores)

    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=trials)
    whole = optuna.trial.TrialState.COMPLETE
    for trial in study.trials:
        yield trial.value if trial.state == whole else 0, spent[trial.number]


def searches(fits, seeds=SEEDS, trials=TRIALS):
    """{way: [the trials of each seed as pairs of score and seconds]}"""
    samplers = {
        "Optuna, TPE": optuna.samplers.TPESampler,
        "Optuna, at random": optuna.samplers.RandomSampler,
    }
    found = {"grid": [list(by_grid(seed, fits)) for seed in range(seeds)]}
    for way, sampler in samplers.items():
        found[way] = [list(by_sampler(sampler(seed=seed), fits, trials)) for seed in range(seeds)]
    return found


def reached(trials, target):
    """After how many trials and seconds the best score is TARGET; infinite if it never is."""
    spent = 0
    for number, (score, seconds) in enumerate(trials, 1):
        spent += seconds
        if score >= target - 1e-9:
            return number, spent
    return math.inf, math.inf


def word(value, digits):
    """VALUE as text."""
    return "never" if value == math.inf else f"{value:.{digits}f}"


def table_of_searches(found, target):
    """FOUND as a table of Markdown: medians over the seeds, with the least and the most."""
    whole = [sum(seconds for _, seconds in trials) for trials in found["grid"]]
    rows = []
    for way, seeds in found.items():
        numbers, spent = zip(*(reached(trials, target) for trials in seeds), strict=True)
        until, least, most = (word(f(numbers), 0) for f in (median_high, min, max))
        share = word(median_high(ratios(spent, whole)), 2)
        best = median_high(max(score for score, _ in trials[: len(GRID)]) for trials in seeds)
        there = f"{sum(number < math.inf for number in numbers)} of {len(numbers)}"
        rows.append([way, there, f"{until} [{least}, {most}]", share, f"{best:.4f}"])
    heads = ["Search", "Reached it", "Trials until then", "Seconds over those of the whole grid"]
    return tools.table([*heads, f"Best of the first {len(GRID)}"], rows)


def draw(found, target):
    """The best score so far over the trials: median and middle half of the seeds."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for (way, seeds), color in zip(
        found.items(), ("tab:gray", "tab:blue", "tab:orange"), strict=True
    ):
        best = np.array([np.maximum.accumulate([score for score, _ in trials]) for trials in seeds])
        numbers = range(1, best.shape[1] + 1)
        low, middle, high = np.percentile(best, [25, 50, 75], axis=0)
        axes.plot(numbers, middle, color=color, label=way)
        axes.fill_between(numbers, low, high, color=color, alpha=0.2, linewidth=0)
    axes.axhline(target, color="black", linestyle=":", linewidth=1, label="best of the grid")
    axes.set(xlabel="trials", ylabel="best cross-validation accuracy so far", ylim=(0.94, 0.966))
    axes.set_title("Median of the seeds, and their middle half")
    axes.legend(loc="lower right")
    return figure


# What a trial costs


def report(trial):
    """What all ways do: two params, five values."""
    trees, _ = suggest(trial)
    for fold in range(FOLDS):
        trial.report(0.9, fold)
    return trees / 128


def bare(folder, trials):
    """Optuna in memory."""
    optuna.create_study().optimize(report, n_trials=trials)


def in_database(folder, trials):
    """Optuna's database, without MLflow."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db", heartbeat_interval=1)
    optuna.create_study(storage=storage).optimize(report, n_trials=trials)


def as_the_lesson(folder, trials):
    """Optuna's database, and a child run with five steps."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db", heartbeat_interval=1)

    def objective(trial):
        with mlflow.start_run(run_name=f"trial {trial.number}", nested=True):
            report(trial)
            mlflow.log_params(trial.params)
            for fold in range(FOLDS):
                mlflow.log_metric("test_score", 0.9, step=fold)
            mlflow.log_metric("mean_test_score", 0.9)
            mlflow.set_tag("trial", "complete")
        return 0.9

    with mlflow.start_run():
        optuna.create_study(storage=storage).optimize(objective, n_trials=trials)


def mlflow_storage(folder, trials):
    """MlflowStorage."""
    home = mlflow.set_experiment("storage").experiment_id
    optuna.create_study(storage=MlflowStorage(home)).optimize(report, n_trials=trials)


def callback(folder, trials):
    """MLflowCallback."""
    log = MLflowCallback(tracking_uri=mlflow.get_tracking_uri())
    optuna.create_study(study_name="callback").optimize(report, n_trials=trials, callbacks=[log])


WAYS = {
    "Optuna alone, in memory": bare,
    "Optuna alone, in a database": in_database,
    "a child with a value for each fold, as in the lesson": as_the_lesson,
    "`MlflowStorage`": mlflow_storage,
    "`MLflowCallback`": callback,
}


def costs(folder, rounds, trials):
    """{way: milliseconds for a trial in each round} on a new database in FOLDER."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("warm up")
    found = {way: [] for way in WAYS}
    for _, (way, search) in itertools.product(range(rounds), WAYS.items()):
        began = time.perf_counter()
        search(folder, trials)
        found[way].append((time.perf_counter() - began) / trials * 1000)
    return found


def table_of_costs(found):
    """FOUND as a table of Markdown."""
    base = found["a child with a value for each fold, as in the lesson"]
    rows = [[way, spread(ms, 0, " ms"), spread(ratios(ms, base))] for way, ms in found.items()]
    return tools.table(["How", "Each trial", "Ratio to the lesson"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20, help="of each round, for the costs")
    args = parser.parse_args()
    tools.quiet()
    warnings.simplefilter("ignore")  # what is experimental or deprecated
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    fits = look_up()
    found = searches(fits)
    target = max(np.mean([score for score, _ in fits[candidate]]) for candidate in GRID)
    print(f"best of the grid: {target:.4f}\n\n{table_of_searches(found, target)}\n", flush=True)
    tools.save(draw(found, target), "optuna")
    with tempfile.TemporaryDirectory() as folder:
        print(table_of_costs(costs(Path(folder), args.rounds, args.trials)))
