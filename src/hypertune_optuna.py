"""A search with Optuna, which learns from each trial what to try next. MLflow keeps each trial.

What you learn: trials as live child runs, pruning, several processes, and going on after a kill.

    pip install -r requirements-optuna.txt
    python src/hypertune_optuna.py      RUN_ID joins this search, or goes on with it
"""

# %% Settings
import sys
import time
import warnings

import mlflow
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, train_test_split

from interrupts import exit_on_interrupt
from tracking import connect

try:
    import optuna
except ImportError:
    sys.exit("This lesson needs Optuna: pip install -r requirements-optuna.txt")

SEED, FOLDS, TEST_SIZE, TRIALS = 42, 5, 0.2, 24
DONE = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
# In a notebook the words in sys.argv are the kernel's: write the run's ID in the place of None.
run_id = sys.argv[1] if sys.argv[1:] and "kernel_launcher" not in sys.argv[0] else None
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of heartbeats and plots
optuna.logging.set_verbosity(optuna.logging.ERROR)

connected = connect()
exit_on_interrupt()
client, uri = mlflow.MlflowClient(), mlflow.get_tracking_uri()
experiment_id = mlflow.set_experiment("hypertune-optuna").experiment_id
# Optuna's own database: beside MLflow's if that is SQLite. Several machines need a PostgreSQL.
place = f"{uri.rpartition('/')[0]}/optuna.db" if "sqlite" in uri else "sqlite:///optuna.db"
storage = optuna.storages.RDBStorage(place, heartbeat_interval=1, grace_period=10)
if run_id and run_id not in optuna.get_all_study_names(storage):
    sys.exit(f"Optuna has no search with the ID {run_id}")

# %% Data: 569 tumours, 30 measurements each; 80% to search on
X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X, _, y, _ = train_test_split(X, y, test_size=TEST_SIZE, random_state=SEED)


# %% A trial: a child run with a score for each fold
def objective(trial):
    trees, depth = trial.suggest_int("n_estimators", 16, 128), trial.suggest_int("max_depth", 2, 16)
    if sum(t.params != {} and t.state.name != "FAIL" for t in study.trials) > TRIALS:
        time.sleep(np.random.rand())  # two processes began the last one at once: both try again
        return np.nan  # no score, so this trial fails
    model, scores = RandomForestClassifier(trees, max_depth=depth, random_state=SEED), []
    # The parent by its ID: in a thread, as with n_jobs=2, `nested` alone doesn't find it.
    where = {"experiment_id": experiment_id, "parent_run_id": run_id, "nested": True}
    with mlflow.start_run(run_name=f"trial {trial.number}", **where):
        mlflow.log_params(trial.params)
        for fold, (fit, test) in enumerate(StratifiedKFold(FOLDS).split(X, y)):
            scores.append(model.fit(X.iloc[fit], y.iloc[fit]).score(X.iloc[test], y.iloc[test]))
            mlflow.log_metric("test_score", scores[-1], step=fold)
            trial.report(np.mean(scores), fold)
            if trial.should_prune():
                mlflow.set_tag("trial", "pruned")
                mlflow.end_run()  # before the error, which would make it FAILED
                raise optuna.TrialPruned
        mlflow.log_metric("mean_test_score", np.mean(scores))
        mlflow.set_tag("trial", "complete")
    return np.mean(scores)


# %% The search and its result: one cell, since a run ends with its `with` block
sampler = optuna.samplers.TPESampler(seed=None if run_id else SEED)  # one seed tries the same again
with mlflow.start_run(run_id, experiment_id, "optuna") as parent:
    run_id = parent.info.run_id
    options = {"study_name": run_id, "load_if_exists": True, "direction": "maximize"}
    study = optuna.create_study(storage=storage, sampler=sampler, **options)
    print(f"To join this search or go on: python src/hypertune_optuna.py {run_id}", flush=True)
    mlflow.log_params({"cv": FOLDS, "random_state": SEED, "test_size": TEST_SIZE})
    mlflow.log_artifact(globals().get("__file__", "hypertune_optuna.py"))  # a notebook has none
    while len(study.get_trials(states=DONE)) < TRIALS:  # other processes may have the last ones
        optuna.storages.fail_stale_trials(study)  # killed: without a heartbeat for ten seconds
        begun = sum(t.params != {} and t.state.name != "FAIL" for t in study.trials)
        study.optimize(objective, n_trials=1) if begun < TRIALS else time.sleep(1)
    running = f"tags.mlflow.parentRunId = '{run_id}' AND attributes.status = 'RUNNING'"
    for child in client.search_runs([experiment_id], running):  # of processes that were killed
        client.set_terminated(child.info.run_id, "KILLED")
    # The best as tags: a param can't change, and with more TRIALS the best may.
    mlflow.set_tags({f"best_{name}": value for name, value in study.best_params.items()})
    mlflow.log_metric("best_cv_score", study.best_value)
    plots, tight = optuna.visualization.matplotlib, {"save_kwargs": {"bbox_inches": "tight"}}
    for plot in plots.plot_optimization_history, plots.plot_param_importances, plots.plot_slice:
        mlflow.log_figure(np.ravel(plot(study))[0].figure, f"{plot.__name__[5:]}.png", **tight)

# %% Result
print(f"best of {len(study.get_trials(states=DONE))} trials: {study.best_params}")
print(f'cross-validation accuracy: {study.best_value:.4f}\nRun "optuna", ID {run_id}')
print(f"{connected}/#/experiments/{experiment_id}/runs/{run_id}\nNext: python src/hypertune3.py")
