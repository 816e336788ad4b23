"""Predict with the model in production, as a program does that knows only its name and the alias.

What you learn: find the version behind an alias, and what the signature refuses before the model
sees it.

    python src/score_model.py           (after src/promote_model.py)

In the UI: Model training > Model registry > breast-cancer-forest > the version > its model: the
signature is listed there.
"""

# %% Settings
import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from tracking import connect

SEED = 42
NAME = "breast-cancer-forest"

connect()
client = mlflow.MlflowClient()

# %% Load what `production` points to. It is looked up here, once: a restart follows the alias
registered = client.search_registered_models(f"name = '{NAME}'")
number = registered[0].aliases.get("production") if registered else None
if not number:
    raise SystemExit(
        "No version is in production: run python src/promote_model.py, "
        "or with rollback after it if there was one before"
    )
try:
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/{number}")
except Exception as error:  # each kind of model and of store raises its own
    if "API request" in str(error):
        raise  # the server's fault, not the model's
    raise SystemExit(
        f"Version {number}, in production, doesn't load: {error!r:.200}; "
        "if the model is at fault, go back by python src/promote_model.py rollback"
    ) from None

# %% Score the rows that no search trained on. But the gate chose by them, so this is flattering
data = load_breast_cancer(as_frame=True)
_, test = train_test_split(data.frame.astype(float), test_size=0.2, random_state=SEED)
rows = test.drop(columns="target")
predicted = model.predict(rows)
names = dict(enumerate(data.target_names))
table = pd.DataFrame({"actual": test["target"], "predicted": predicted}).replace(names)
wrong = table[table["actual"] != table["predicted"]]
print(f"Version {number} of {NAME} is right on {len(test) - len(wrong)} of {len(test)}")
print("The gate chose it by these rows: expect less on others. It is wrong on")
print(wrong.to_string(index_names=False))

# %% The signature: columns in another order are sorted, one that is missing or text is refused
assert (model.predict(rows[rows.columns[::-1]]) == predicted).all()
for changed in rows.drop(columns="mean radius"), rows.assign(**{"mean radius": "large"}):
    try:
        model.predict(changed)
    except MlflowException as error:
        print(f"Refused: {str(error).rpartition('Error: ')[2]}")
print("Next: serve it, see docs/lessons/score_model.md")
