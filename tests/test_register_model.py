import re

import pytest
from mlflow.exceptions import MlflowException
from registry import NAME
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

DATA = load_breast_cancer(as_frame=True).frame.astype(float)
_, TEST = train_test_split(DATA, test_size=0.2, random_state=42)
MALIGNANT = TEST["target"] == load_breast_cancer().target_names.tolist().index("malignant")


@pytest.mark.ci
def test_registering_again_makes_no_second_version(staged):
    (_, before), aliases = staged.state(), staged.aliases()
    staged.done("register_model")
    (_, after), again = staged.state(), staged.aliases()
    assert [version[:2] for version in after] == [version[:2] for version in before]
    assert again == aliases


@pytest.mark.ci
def test_what_is_in_production_needs_no_gate(promoted):
    before = promoted.state()
    assert promoted.done("register_model").endswith(
        "\nVersion 2 has this model, and is in production: nothing to do\n"
    )
    assert promoted.state() == before


def test_the_gate_is_what_both_models_score_on_the_test_rows(staged):
    runs = staged.client.search_runs(
        [staged.client.get_experiment_by_name("register-model").experiment_id],
        order_by=["attributes.start_time DESC"],
        max_results=2,
    )
    source = staged.client.get_model_version(NAME, "2").source
    assert [run.info.run_name for run in runs] == ["candidate", "version 1"]
    assert [run.data.tags["model"] for run in runs] == [source, f"models:/{NAME}/1"]
    assert staged.tags(2)["gate_run"] == runs[0].info.run_id
    for run, number in zip(runs, (2, 1), strict=True):
        metrics, tags = run.data.metrics, staged.tags(number)
        assert metrics["example_count"] == 114
        assert tags["accuracy_score"] == f"{metrics['accuracy_score']:.4g}"
        assert tags["recall_score"] == f"{metrics['recall_score']:.4g}"
        predicted = staged.load(number).predict(TEST.drop(columns="target"))
        missed = sum((predicted == 1) & MALIGNANT)
        assert metrics["false_negatives"] == missed > 0
        assert metrics["recall_score"] == 1 - missed / 43 != metrics["accuracy_score"]
        assert run.inputs.dataset_inputs[0].dataset.name == "breast-cancer-testing"
    assert staged.tags(1)["gate_against"] == "none"
    assert staged.tags(2)["gate_against"] == "1"
    assert (
        "Passed the gate against version 1"
        in staged.client.get_model_version(NAME, "2").description
    )


def test_a_model_worse_than_production_is_refused_with_the_numbers(staged):
    staged.search(1)
    error = staged.refused("register_model", longest=550)
    assert error.startswith("Refused, nothing is changed: ")
    for score, least in ("accuracy_score", 0.9), ("recall_score", 0.88):
        found = re.search(rf"{score} = (\S+), baseline model {score} = (\S+), ", error)
        candidate, baseline = map(float, found.groups())
        assert f"{baseline:.4g}" == staged.tags(1)[score]
        assert least <= candidate < baseline


@pytest.mark.ci
def test_with_nothing_in_production_the_thresholds_alone_decide(empty_registry):
    empty_registry.search(0)
    error = empty_registry.refused("register_model")
    assert "accuracy_score threshold = 0.9." in error
    assert "baseline" not in error


@pytest.mark.ci
def test_five_missed_tumours_pass_and_six_are_too_many(empty_registry):
    empty_registry.search(8, depth=1)
    error = empty_registry.refused("register_model")
    assert f"recall_score = {37 / 43}, recall_score threshold = 0.88." in error
    assert "accuracy_score" not in error
    empty_registry.search(16, depth=1)
    assert f", recall_score {38 / 43:.4g}\n" in empty_registry.done("register_model")


def in_production(registry, *forest):
    """Register and promote the model of a search for this forest."""
    registry.search(*forest)
    registry.done("register_model")
    registry.done("promote_model")
    return registry.load(1).predict(TEST.drop(columns="target"))


@pytest.mark.ci
def test_a_model_that_misses_more_tumours_is_refused_at_the_same_accuracy(empty_registry):
    predicted = in_production(empty_registry, 16, 1, 3)
    assert sum(predicted != TEST["target"]) == 4
    assert not any(predicted[MALIGNANT])
    empty_registry.search(32, 4, 0.2)
    error = empty_registry.refused("register_model")
    assert f"candidate model recall_score = {39 / 43}, baseline model recall_score = 1.0" in error
    assert "accuracy_score" not in error


@pytest.mark.ci
def test_a_tie_passes_though_neither_misses_a_tumour(empty_registry):
    predicted = in_production(empty_registry, 16, 1, 3)
    assert not any(predicted[MALIGNANT])
    empty_registry.search(16, 1, 3)
    assert "@staging is version 2, accuracy_score 0.9649, recall_score 1\n" in (
        empty_registry.done("register_model")
    )


@pytest.mark.ci
def test_production_that_fails_to_load_is_no_baseline(staged):
    staged.lose_files(1)
    error = staged.refused("register_model")
    assert error.startswith(f"models:/{NAME}/1 can't be evaluated, nothing is changed: ")


@pytest.mark.ci
def test_a_candidate_that_fails_to_load_is_refused(staged):
    staged.lose_files(2)
    error = staged.refused("register_model")
    assert re.match(r"models:/m-\w+ can't be evaluated, nothing is changed: ", error)


@pytest.mark.ci
def test_a_search_that_held_back_other_rows_is_refused(staged):
    run = staged.search(64, test_size=0.3)
    assert staged.refused("register_model") == (
        f"The search {run.info.run_id} didn't hold these test rows back\n"
    )


@pytest.mark.ci
def test_a_search_that_trained_on_these_rows_is_refused(staged):
    run = staged.search(64, contexts="testing training")
    assert staged.refused("register_model") == (
        f"The search {run.info.run_id} didn't hold these test rows back\n"
    )


def import_search(registry):
    """Leave a finished search without a model, as mlflow-export-import does."""
    experiment = registry.client.create_experiment("searches")
    run = registry.client.create_run(experiment, tags={"search": NAME})
    registry.client.set_terminated(run.info.run_id)


@pytest.mark.ci
def test_a_search_without_a_model_is_none(empty_registry):
    import_search(empty_registry)
    assert empty_registry.refused("register_model") == (
        "No finished search with a model is here: run python src/hypertune2.py first\n"
    )


@pytest.mark.ci
def test_a_newer_search_without_a_model_is_no_obstacle(empty_registry):
    empty_registry.search(16)
    import_search(empty_registry)
    empty_registry.done("register_model")
    assert empty_registry.aliases() == {"staging": 1}


@pytest.mark.ci
def test_it_says_whose_search_it_takes_before_it_judges(empty_registry):
    run = empty_registry.search(16, LOGNAME="ada")
    assert run.data.tags["mlflow.user"] == "ada"
    (output,) = run.outputs.model_outputs
    said = f"Candidate: models:/{output.model_id}, of a search by ada\n  search  search, "
    assert empty_registry.done("register_model").startswith(f"{said}{run.info.run_id}\n")
    # So it does if the answer is no.
    run = empty_registry.search(0, LOGNAME="bob")
    result = empty_registry.script("register_model")
    assert result.returncode == 1
    assert f", of a search by bob\n  search  search, {run.info.run_id}\n" in result.stdout


@pytest.mark.ci
def test_a_model_registered_elsewhere_under_this_name_is_no_obstacle(empty_registry):
    empty_registry.client.create_registered_model(NAME)
    empty_registry.search(16)
    empty_registry.done("register_model")
    assert empty_registry.aliases() == {"staging": 1}


def test_without_a_search_it_says_which_script_to_run(empty_registry):
    assert empty_registry.refused("register_model") == (
        "No finished search with a model is here: run python src/hypertune2.py first\n"
    )


def test_reserved_names_are_no_aliases(staged):
    for alias in "latest", "v1":
        with pytest.raises(MlflowException, match="reserved"):
            staged.client.set_registered_model_alias(NAME, alias, "1")
