from stores import assert_loads_elsewhere


def test_autolog_recorded_what_the_table_says(store):
    run, output = store.lesson("autolog")
    metrics = run.data.metrics
    assert len(run.data.params) == 19
    assert run.data.params["bootstrap"] == "True"  # a default that nobody chose
    assert run.data.params["n_estimators"] == "50"
    assert len([name for name in metrics if name.startswith("training_")]) == 7
    assert metrics["accuracy_score_X_test"] == 17 / 18
    assert len(run.inputs.dataset_inputs) == 2
    files = {"estimator.html", "metric_info.json", "training_confusion_matrix.png"}
    assert set(store.files(run.info.run_id)) == files | {"autolog.py"}
    for line in [
        "params, defaults included      yes     19",
        "metrics on the training rows      yes      7",
        "metric calls after the fit      yes      1",
        "files      yes      3",
        "data: name and digest      yes      2",
        "rows of the data       NO      0",
        "your code       NO      0",
        "your own metric       NO      0",
        "model (switched off above)       NO      0",
    ]:
        assert line in output


def test_what_was_missing_is_added_to_the_same_run(store, track_in):
    run, _ = store.lesson("autolog")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_errors"] == 1
    model, files = store.model_files(run)
    assert model.name == "forest" and "model.skops" in files
    track_in(store.uri)
    assert_loads_elsewhere(model.model_uri)
    assert len(store.client.search_runs([run.info.experiment_id])) == 1
