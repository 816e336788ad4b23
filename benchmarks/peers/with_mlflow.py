"""MLflow: a run of the search, and nested in it one of each candidate; hypertune2's form.

https://mlflow.org/docs/latest/ml/tracking/tracking-api/
"""

import mlflow
from job import BEST, CANDIDATES

experiment_id = mlflow.set_experiment("search").experiment_id
with mlflow.start_run(experiment_id=experiment_id):
    for params, metrics in CANDIDATES:
        with mlflow.start_run(experiment_id=experiment_id, nested=True):
            mlflow.log_params(params)
            mlflow.log_metrics(metrics)
    params, metrics = BEST
    mlflow.log_params(params)
    mlflow.log_metrics(metrics)
