"""Track a training loop of your own, and go on with it after a kill.

What you learn: curves, the best value, checkpoints with scores, early stopping, system metrics.

    python src/training_loop.py      To go on with a run, write its ID behind it.
"""

# %% Settings
import sys
from importlib.metadata import version

import mlflow
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from interrupts import exit_on_interrupt
from tracking import connect

SEED = 42
PARAMS = {"loss": "log_loss", "learning_rate": "constant", "eta0": 0.001, "alpha": 0}
EPOCHS, PATIENCE, EVERY = 100, 10, 5  # epochs at most, without a better val_loss, to a checkpoint
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
SCRIPT = globals().get("__file__", "training_loop.py")  # a notebook has no __file__
# In a notebook the words in sys.argv are the kernel's: write the run's ID in the place of None.
run_id = sys.argv[1] if sys.argv[1:] and "kernel_launcher" not in sys.argv[0] else None

connected = connect()
exit_on_interrupt()
experiment_id = mlflow.set_experiment("training-loop").experiment_id
client = mlflow.MlflowClient()
if run_id and not client.search_runs([experiment_id], f"run_id = {run_id!r}"):
    sys.exit(f"The experiment training-loop has no run with the ID {run_id}")

# %% Data: 1,797 digits of 8 x 8 pixels; 400 to train on, 1,397 to validate
data = load_digits(as_frame=True).frame.astype(float)  # an array's digest would miss most rows
digits = mlflow.data.from_pandas(data, targets="target", name="digits")
pixels, target = data.drop(columns="target"), data["target"]
X, X_val, y, y_val = train_test_split(pixels, target, train_size=400, random_state=SEED)
options = {"pip_requirements": REQUIREMENTS, "signature": mlflow.models.infer_signature(X, y)}


# %% The run's checkpoints
def tidy():
    """Keep the best checkpoint and the last one, delete all others; return these two."""
    order = [{"field_name": "metrics.val_loss", "dataset_name": "digits", "ascending": True}]
    only = f"source_run_id = '{run_id}'"
    found = mlflow.search_logged_models([experiment_id], only, order_by=order, output_format="list")
    # A kill can leave one without a score. MLflow may give it system metrics, so ask by name.
    scored = [each for each in found if "val_loss" in {old.key for old in each.metrics or []}]
    kept = scored[:1] + sorted(scored, key=lambda each: int(each.params["epoch"]))[-1:]
    for old in found:
        if old not in kept:  # the files first: afterwards nothing leads to them
            get_artifact_repository(old.artifact_location).delete_artifacts()
            client.delete_logged_model(old.model_id)
    return kept


# %% The loop: one cell, since a run ends with its `with` block
mlflow.set_system_metrics_sampling_interval(0.2)  # seconds; the default is ten, longer than this
watch = "://" in mlflow.get_tracking_uri().removeprefix("file://")  # two threads break a folder
with mlflow.start_run(run_id, experiment_id, "digits", log_system_metrics=watch) as run:
    run_id = run.info.run_id
    print(f"If it is interrupted, go on by: python src/training_loop.py {run_id}", flush=True)
    mlflow.log_params(PARAMS | {"random_state": SEED})
    mlflow.log_artifact(SCRIPT)
    model, epoch = SGDClassifier(**PARAMS, random_state=SEED), 0
    if kept := tidy():
        model, epoch = mlflow.sklearn.load_model(kept[-1].model_uri), int(kept[-1].params["epoch"])
    losses = {old.step: old.value for old in client.get_metric_history(run_id, "val_loss")}
    best_epoch = min(losses, key=losses.get, default=0)
    while epoch < EPOCHS and epoch - best_epoch < PATIENCE:
        epoch += 1
        model.partial_fit(X, y, classes=range(10))
        if epoch in losses:  # logged before the kill, but after the last checkpoint
            continue
        losses[epoch] = log_loss(y_val, model.predict_proba(X_val))
        best_epoch = min(losses, key=losses.get)
        points = {"train_loss": log_loss(y, model.predict_proba(X)), "val_loss": losses[epoch]}
        # The table of runs shows the last value of a metric. So the best has one of its own.
        points |= {"best_val_loss": losses[best_epoch], "best_epoch": best_epoch}
        if (epoch - 1) % EVERY == 0:
            name, own = f"epoch-{epoch}", {"epoch": epoch}
            saved = mlflow.sklearn.log_model(model, name=name, step=epoch, params=own, **options)
            mlflow.log_metrics(points, step=epoch, model_id=saved.model_id, dataset=digits)
            print(f"{name}: val_loss {losses[epoch]:.4f}", flush=True)
            tidy()
        else:
            mlflow.log_metrics(points, step=epoch)

# %% Result
best = tidy()[0]
accuracy = mlflow.sklearn.load_model(best.model_uri).score(X_val, y_val)
print(f"stopped after epoch {epoch}, best val_loss {losses[best_epoch]:.4f} in epoch {best_epoch}")
print(f"best checkpoint: {best.name}, right on {accuracy:.1%} of the validation digits")
print(f'Run "{run.info.run_name}", ID {run_id}')
print(f"{connected}/#/experiments/{experiment_id}/runs/{run_id}/model-metrics")
print("Next: python src/pipeline_run.py")
