"""Track a run on DagsHub, a hosted service.

What you learn: the same calls log to a server that others run for you. Who you are and which repo
the run belongs to come from the environment, because a token in a script ends up in Git.

    export DAGSHUB_REPO=owner/name DAGSHUB_USER_TOKEN=...
    python src/dagshub_run.py

In the UI: the model is in the folder model among the run's artifacts.
"""

# %% Settings
import logging
import os
import re
import tempfile
from importlib.metadata import version

import dagshub
import mlflow
from dagshub.common import config
from dagshub.common.api.repo import RepoAPI, RepoNotFoundError
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score
from sklearn.model_selection import train_test_split

from tracking import connect

SEED = 42
PARAMS = {"n_estimators": 50, "max_depth": 5}
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
SCRIPT = globals().get("__file__", "dagshub_run.py")  # a notebook has no __file__
TOKENS = f"{config.host}/user/settings/tokens"
config.http_timeout = 10  # seconds
logging.getLogger("dagshub").setLevel(logging.CRITICAL)  # below, one sentence says it

# %% Who you are: without a token dagshub would open a browser and wait, without end
repo = os.environ.get("DAGSHUB_REPO", "")
if not re.fullmatch(r"[\w.-]+/[\w.-]+(?<!\.mlflow)", repo):
    raise SystemExit(f"Set DAGSHUB_REPO to owner/name: ada/wine for {config.host}/ada/wine.mlflow")
if not re.fullmatch("[!-~]+", os.environ.get("DAGSHUB_USER_TOKEN", "")):
    raise SystemExit(f"Set DAGSHUB_USER_TOKEN to a token of your own, from {TOKENS}")

# %% Connect: look for the repo first, since init() makes the one that it doesn't find
try:
    RepoAPI(repo).get_repo_info()
    owner, name = repo.split("/")
    dagshub.init(repo_owner=owner, repo_name=name, mlflow=True)  # sets MLFLOW_TRACKING_URI
except RepoNotFoundError:
    raise SystemExit(f"You have no repo {repo}: make it at {config.host}/repo/create") from None
except Exception as error:  # for a bad token dagshub's own, otherwise the network's
    raise SystemExit(f"No way in: {error}; look at your network and at {TOKENS}") from None
connected = connect(oldest=2)
experiment_id = mlflow.set_experiment("dagshub-run").experiment_id

# %% Run: as in src/basic_run.py
wine = load_wine(as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(
    wine.data.astype(float), wine.target, test_size=0.1, random_state=SEED
)
run_name = f"forest of {PARAMS['n_estimators']}"
with mlflow.start_run(experiment_id=experiment_id, run_name=run_name) as run:
    mlflow.log_params(PARAMS | {"random_state": SEED})
    mlflow.set_tags({"dataset": "wine", "purpose": "hosted run"})
    forest = RandomForestClassifier(**PARAMS, random_state=SEED).fit(X_train, y_train)
    predicted = forest.predict(X_test)
    accuracy = accuracy_score(y_test, predicted)
    mlflow.log_metric("test_accuracy", accuracy)
    matrix = ConfusionMatrixDisplay.from_predictions(
        y_test, predicted, display_labels=wine.target_names, cmap="cividis"
    )
    matrix.ax_.set_title(f"{(y_test != predicted).sum()} of {len(y_test)} test wines wrong")
    mlflow.log_figure(matrix.figure_, "confusion_matrix.png")
    mlflow.log_artifact(SCRIPT)

    # Model: as files, because log_model() needs MLflow 3 on the server, which DagsHub may lack
    with tempfile.TemporaryDirectory() as folder:
        mlflow.sklearn.save_model(
            forest,
            folder,
            signature=infer_signature(X_test, predicted),
            skops_trusted_types=["sklearn.tree._tree.Tree"],
            pip_requirements=REQUIREMENTS,
        )
        mlflow.log_artifacts(folder, "model")

# %% Load it as a colleague would: by the run's ID, and as files again, not by runs:/ID/model
run_id = run.info.run_id
with tempfile.TemporaryDirectory() as folder:
    mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="model", dst_path=folder)
    again = mlflow.pyfunc.load_model(f"{folder}/model").predict(X_test)

# %% Result
print(f"test_accuracy: {accuracy:.4f}")
print(f"Loaded again, the model repeats {(again == predicted).sum()} of {len(again)} predictions")
print(f'Run "{run_name}", ID {run_id}')
print(f"{connected}/#/experiments/{experiment_id}/runs/{run_id}")
print(f"Next: share {config.host}/{repo}, so that others log there with tokens of their own")
