"""Log a model of a framework that MLflow doesn't know, and load it without the training code.

What you learn: a model is a file of code, the weights as an artifact, settings as model_config, and
params that each caller may change.

    python src/custom_model.py

In the UI: Model training > Experiments > custom-model > Models > centroids > Artifacts: the model's
code and, in the folder artifacts, its weights.
"""

# %% Settings
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

import centroid_model
from tracking import connect

SEED = 42
NAME = "iris-centroid"
FARTHEST = 3.0  # an iris farther than so many cm from each species is "unknown"
SCRIPT = globals().get("__file__", "custom_model.py")  # a notebook has no __file__

connected = connect()
experiment_id = mlflow.set_experiment("custom-model").experiment_id

# %% Data: 150 irises, 4 measurements in cm, 3 species; 20% held back for the test
iris = load_iris()
X_train, X_test, y_train, y_test = train_test_split(
    iris.data, iris.target_names[iris.target], test_size=0.2, random_state=SEED
)

# %% Training: the mean iris of each species, in NumPy. Put your own framework here
classes = np.unique(y_train)
centroids = np.array([X_train[y_train == name].mean(axis=0) for name in classes])

# %% The run and its model
with mlflow.start_run(experiment_id=experiment_id, run_name="nearest centroid") as run:
    mlflow.log_params({"farthest": FARTHEST, "random_state": SEED})
    mlflow.log_artifact(SCRIPT)
    with TemporaryDirectory() as folder:
        weights = Path(folder, "centroids.npy")
        np.save(weights, centroids)
        # The code goes as a file: an object would be pickled, and need its module to load.
        info = mlflow.pyfunc.log_model(
            name="centroids",
            python_model=centroid_model.__file__,
            artifacts={"centroids": str(weights)},
            model_config={"classes": classes.tolist()},
            signature=infer_signature(X_test, y_test, params={"farthest": FARTHEST}),
            input_example=X_test[:3],
            pip_requirements=[f"numpy=={version('numpy')}"],
            registered_model_name=NAME,
        )
    # Score what is stored, not what is in memory: this is what others will load.
    model = mlflow.pyfunc.load_model(info.model_uri)
    accuracy = (model.predict(X_test) == y_test).mean()
    mlflow.log_metric("test_accuracy", accuracy, model_id=info.model_id)

# %% Result: the same model, asked with another param
print(f"test_accuracy: {accuracy:.4f}")
for farthest in FARTHEST, 0.5:
    answers = model.predict(X_test, params={"farthest": farthest})
    known = answers != "unknown"
    right = (answers == y_test).sum()
    print(f"farthest {farthest}: {known.sum()} of {len(known)} irises named, {right} of them right")
print(f"models:/{NAME}/{info.registered_model_version} is the model of this run")
print(f'Run "{run.info.run_name}", ID {run.info.run_id}')
print(f"{connected}/#/experiments/{experiment_id}/runs/{run.info.run_id}")
print("Next: python src/reproduce_run.py")
