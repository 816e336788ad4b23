"""Log preparation and model as one, so that whoever uses the model prepares the data alike.

What you learn: a pipeline with a transformer of your own as one model, the prepared table as a
file and as a dataset, and answers in spite of a missing value or a new category.

    python src/pipeline_run.py
"""

# %% Settings
import hashlib
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import penguin_features
from tracking import connect

MODEL = LogisticRegression(max_iter=1000)
SPLIT = {"test_size": 0.2, "random_state": 42}
NUMBERS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
CATEGORIES = ["island", "sex"]
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
# Where everybody finds the rows. The path on your disk would tell a colleague nothing.
SOURCE = "https://github.com/allisonhorst/palmerpenguins/raw/v0.1.0/inst/extdata/penguins.csv"
SCRIPT = globals().get("__file__", "pipeline_run.py")  # a notebook has no __file__
CODE = penguin_features.__file__
DATA = Path(CODE).parent.parent / "data" / "penguins.csv"
if not DATA.exists():
    raise SystemExit(f"{DATA} is missing: copy the tutorial's data/penguins.csv there")

connected = connect()
experiment_id = mlflow.set_experiment("pipeline-run").experiment_id

# %% Data: 344 penguins, 19 values missing; 20% held back for the test
# All numbers float, because an integer column in a schema can't hold a missing value.
penguins = pd.read_csv(DATA, dtype=dict.fromkeys([*NUMBERS, "year"], float))
X, y = penguins[NUMBERS + CATEGORIES], penguins["species"]
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, **SPLIT)

# %% The pipeline: a step of your own, a preparation for each kind of column, and the model
numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
kinds = [("numbers", numbers, [*NUMBERS, "bill_ratio"]), ("categories", categories, CATEGORIES)]
prepare = ColumnTransformer(kinds, verbose_feature_names_out=False).set_output(transform="pandas")
model = make_pipeline(penguin_features.PenguinFeatures(), prepare, MODEL)

# %% Run
with mlflow.start_run(experiment_id=experiment_id, run_name="penguins") as run:
    mlflow.log_params(SPLIT | {"model": str(MODEL)})
    mlflow.log_artifact(SCRIPT)
    # MLflow's own digest would leave out the column sex, because values are missing there.
    digest = hashlib.sha256(DATA.read_bytes()).hexdigest()[:8]
    raw = mlflow.data.from_pandas(penguins, SOURCE, "species", "penguins", digest)
    mlflow.log_input(raw, context="raw")

    model.fit(X_train, y_train)
    loss = log_loss(y_test, model.predict_proba(X_test))
    scores = {"test_accuracy": model.score(X_test, y_test), "test_log_loss": loss}
    mlflow.log_metrics(scores)

    # What the model itself sees. If you name no source, MLflow names this script.
    prepared = model[:-1].transform(X_train)
    mlflow.log_table(prepared, "preprocessed.json")
    preprocessed = mlflow.data.from_pandas(prepared, name="penguins-preprocessed")
    mlflow.log_input(preprocessed, context="preprocessed")

    # Read the names before you trust them. Your own class, and those of numpy and scikit-learn,
    # are fine. Be wary of a function, and of a library that this model has no use for.
    trusted = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    # From complete rows: a column with a missing value would count as one to leave out at will.
    complete = X_train.dropna()
    answers = pd.DataFrame(model.predict_proba(complete), columns=model.classes_)
    signature = mlflow.models.infer_signature(complete, answers)
    options = {"skops_trusted_types": trusted, "pip_requirements": REQUIREMENTS}
    options |= {"code_paths": [CODE], "pyfunc_predict_fn": "predict_proba"}
    logged = mlflow.sklearn.log_model(model, name="pipeline", signature=signature, **options)

# %% One penguin as it was measured, and twice with what the training never saw or doesn't know
strange = X_test.iloc[[0, 0, 0]].set_axis(["as measured", "new island", "no sex, no mass"])
strange.loc["new island", "island"] = "Heard"
strange.loc["no sex, no mass", ["sex", "body_mass_g"]] = None
answers = mlflow.pyfunc.load_model(logged.model_uri).predict(strange)

# %% Result
print(f"skops asks you to trust: {', '.join(trusted)}")
print(*(f"{name}: {value:.4f}" for name, value in scores.items()), sep="\n")
print(pd.DataFrame(answers, strange.index, model.classes_).round(3))
print(f'Run "{run.info.run_name}", ID {run.info.run_id}')
print(f"{connected}/#/experiments/{experiment_id}/runs/{run.info.run_id}")
print("Next: python src/custom_model.py")
