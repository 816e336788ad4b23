"""Choose the experiment that a run belongs to.

What you learn: by name or by ID, what describes an experiment, and how to get a deleted one back.

    python src/select_experiment.py

In the UI: Model training > Experiments lists them; each row shows the
experiment's description and tags.
"""

# %% Settings
import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tracking import connect

NAME = "select-experiment"

connected = connect()
client = MlflowClient()

# %% Deleted, perhaps? Then its name is still taken and set_experiment() would fail: restore it
found = client.get_experiment_by_name(NAME)
if found and found.lifecycle_stage == "deleted":
    client.restore_experiment(found.experiment_id)

# %% By name: created where it is missing
experiment = mlflow.set_experiment(NAME)
mlflow.set_experiment_tag("mlflow.note.content", "Where the lesson on experiments logs its runs.")
mlflow.set_experiment_tags({"team": "tutorial", "topic": "experiments"})
with mlflow.start_run(run_name="chosen by name") as by_name:
    mlflow.log_metric("answer", 42)

# %% By ID: still this experiment if somebody renames it
with mlflow.start_run(run_name="chosen by ID", experiment_id=experiment.experiment_id) as by_id:
    mlflow.log_metric("answer", 42)

# %% What is there
print(f"{'ID':>20}  {'runs':>5}  name")
for each in client.search_experiments(order_by=["name ASC"]):
    runs = client.search_runs([each.experiment_id], max_results=1000)  # one page, perhaps of many
    count = f"{len(runs)}+" if runs.token else len(runs)
    print(f"{each.experiment_id:>20}  {count:>5}  {each.name}")

# %% Deleted: hidden, not gone, and its name is taken
client.delete_experiment(experiment.experiment_id)
try:
    mlflow.set_experiment(NAME)
except MlflowException as error:
    print(f"After deleting it: {error.message.splitlines()[0]}")
client.restore_experiment(experiment.experiment_id)
print(f"Restored: {NAME} is {mlflow.get_experiment(experiment.experiment_id).lifecycle_stage}")

print(f'Runs "{by_name.info.run_name}", ID {by_name.info.run_id}')
print(f'and "{by_id.info.run_name}", ID {by_id.info.run_id}')
print(f"{connected}/#/experiments/{experiment.experiment_id}/runs")
print("Next: python src/hypertune1.py")
