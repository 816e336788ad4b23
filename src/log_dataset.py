"""Write down which data a run saw.

What you learn: MLflow stores a dataset's name, digest, schema, size and source, never its rows;
name and digest are its identity, which has two traps.

    python src/log_dataset.py

In the UI: Model training > Experiments > log-dataset > "wine, two splits": a click on a
dataset under Datasets shows its schema.
"""

# %% Settings
import json

import mlflow
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

from tracking import connect

SEED = 42
# Where the rows come from, for a reader of the run: never a URL with a password in it.
SOURCE = "https://archive.ics.uci.edu/dataset/109/wine"

connected = connect()
experiment_id = mlflow.set_experiment("log-dataset").experiment_id

# %% Data
wine = load_wine(as_frame=True).frame.astype(float)
train, test = train_test_split(wine, test_size=0.1, random_state=SEED)

# %% Describe each split under its own name, then say what the run used it for
with mlflow.start_run(experiment_id=experiment_id, run_name="wine, two splits") as run:
    for split, name, context in (train, "wine-train", "training"), (test, "wine-test", "testing"):
        dataset = mlflow.data.from_pandas(split, name=name, targets="target", source=SOURCE)
        mlflow.log_input(dataset, context=context)

# %% Read back what the store holds
for given in mlflow.get_run(run.info.run_id).inputs.dataset_inputs:
    profile = json.loads(given.dataset.profile)
    columns = json.loads(given.dataset.schema)["mlflow_colspec"]
    tags = {tag.key: tag.value for tag in given.tags}
    print(
        f"{given.dataset.name}, digest {given.dataset.digest}, for {tags['mlflow.data.context']}: "
        f"{profile['num_rows']} rows, {len(columns)} columns, "
        f"the first is {columns[0]['name']} ({columns[0]['type']})"
    )
    print(f"    from {mlflow.data.get_source(given).url}")

# %% Trap 1: one name and digest counts once, so a second context is dropped without a word
name = "trap: one dataset, two contexts"
with mlflow.start_run(experiment_id=experiment_id, run_name=name) as trap:
    dataset = mlflow.data.from_pandas(wine, name="wine", targets="target", source=SOURCE)
    for context in "training", "testing":
        mlflow.log_input(dataset, context=context)
kept = mlflow.get_run(trap.info.run_id).inputs.dataset_inputs
print(f"Trap 1: logged for training and for testing, kept for {[i.tags[0].value for i in kept]}")

# %% Trap 2: the digest reads the first 10,000 rows and the row count, so a later edit hides
table = pd.DataFrame({"x": np.arange(20_000.0)})
edited = table.copy()
edited.loc[15_000, "x"] = -1
same = mlflow.data.from_pandas(table).digest == mlflow.data.from_pandas(edited).digest
print(f"Trap 2: row 15,000 of 20,000 edited, same digest: {same}")

print(f'Run "{run.info.run_name}", ID {run.info.run_id}')
print(f"{connected}/#/experiments/{experiment_id}/runs/{run.info.run_id}")
print("Next: python src/compare_runs.py")
