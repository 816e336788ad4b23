"""What a store holds, for the tests of all lessons."""

from mlflow import MlflowClient


def runs_of(uri, experiment_name):
    """All runs of the experiment, oldest first; none if it is missing."""
    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(experiment_name)
    if not experiment:
        return []
    order = ["attributes.start_time ASC"]
    return list(client.search_runs([experiment.experiment_id], max_results=50_000, order_by=order))


def children_of(client, parent):
    """The child runs of PARENT, best rank first."""
    return list(
        client.search_runs(
            [parent.info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
            max_results=50_000,
            order_by=["metrics.rank_test_score"],
        )
    )
