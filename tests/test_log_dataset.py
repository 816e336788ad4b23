import json

from mlflow.data import get_source


def test_both_splits_are_described(store):
    run, output = store.lesson("log_dataset")
    inputs = {i.dataset.name: i for i in run.inputs.dataset_inputs}
    assert set(inputs) == {"wine-train", "wine-test"}
    for name, context, rows in ("wine-train", "training", 160), ("wine-test", "testing", 18):
        given = inputs[name]
        assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", context)]
        assert json.loads(given.dataset.profile)["num_rows"] == rows
        columns = json.loads(given.dataset.schema)["mlflow_colspec"]
        assert len(columns) == 14
        assert {column["type"] for column in columns} == {"double"}
        assert get_source(given).url == "https://archive.ics.uci.edu/dataset/109/wine"
        assert f"{name}, digest {given.dataset.digest}, for {context}: {rows} rows" in output


def test_the_traps_are_as_printed(store):
    run, output = store.lesson("log_dataset")
    runs = store.client.search_runs([run.info.experiment_id])
    (trap,) = [each for each in runs if each.info.run_name.startswith("trap")]
    (kept,) = trap.inputs.dataset_inputs
    assert kept.dataset.name == "wine"
    assert [tag.value for tag in kept.tags] == ["training"]
    assert "kept for ['training']" in output
    assert "row 15,000 of 20,000 edited, same digest: True" in output


def test_no_rows_are_stored(store):
    run, _ = store.lesson("log_dataset")
    assert store.files(run.info.run_id) == []
