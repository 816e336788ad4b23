import re

import pytest
from mlflow.exceptions import MlflowException
from registry import NAME


def test_registering_again_makes_no_second_version(staged):
    before = staged.state()
    staged.done("register_model")
    assert staged.state() == before


def test_what_is_in_production_needs_no_gate(staged):
    staged.done("promote_model")
    before = staged.state()
    assert staged.done("register_model") == (
        "Version 2 has this model, and is in production: nothing to do\n"
    )
    assert staged.state() == before


def test_the_gate_is_what_both_models_score_on_the_test_rows(staged):
    runs = staged.client.search_runs(
        [staged.client.get_experiment_by_name("register-model").experiment_id],
        order_by=["attributes.start_time DESC"],
        max_results=2,
    )
    source = staged.client.get_model_version(NAME, "2").source
    names = [run.info.run_name for run in runs]
    assert names == [f"evaluate models:/{NAME}/1", f"evaluate {source}"]
    for run, number in zip(runs, (1, 2), strict=True):
        metrics, tags = run.data.metrics, staged.tags(number)
        assert metrics["example_count"] == 114
        assert tags["accuracy_score"] == f"{metrics['accuracy_score']:.4f}"
        assert tags["roc_auc"] == f"{metrics['roc_auc']:.4f}"
        assert (run.inputs.dataset_inputs[0].dataset.name) == "breast-cancer-testing"
    assert staged.tags(1)["gate_against"] == "none"
    assert staged.tags(2)["gate_against"] == "1"
    assert (
        "Passed the gate against version 1"
        in staged.client.get_model_version(NAME, "2").description
    )


def test_a_model_worse_than_production_is_refused_with_the_numbers(staged):
    staged.search(1)
    error = staged.refused("register_model")
    found = re.search(r"accuracy_score = (\S+), baseline model accuracy_score = (\S+), ", error)
    candidate, baseline = map(float, found.groups())
    assert error.startswith("Refused, nothing is changed: ")
    assert f"{baseline:.4f}" == staged.tags(1)["accuracy_score"]
    assert 0.9 <= candidate < baseline


def test_with_nothing_in_production_the_thresholds_alone_decide(empty_registry):
    empty_registry.search(1)
    error = empty_registry.refused("register_model")
    assert "roc_auc threshold = 0.95" in error
    assert "baseline" not in error


def test_production_that_fails_to_load_is_no_baseline(staged):
    staged.lose_files(1)
    error = staged.refused("register_model")
    assert error.startswith(f"Can't load models:/{NAME}/1, so nothing can be compared with it: ")


@pytest.mark.slow
def test_a_candidate_that_fails_to_load_is_refused(staged):
    staged.lose_files(2)
    assert staged.refused("register_model").startswith("Can't load models:/m-")


@pytest.mark.slow
def test_a_search_that_held_back_other_rows_is_refused(staged):
    run = staged.search(64, test_size=0.3)
    assert staged.refused("register_model") == (
        f"The search {run.info.run_id} didn't hold these test rows back: it may have seen them\n"
    )


@pytest.mark.slow
def test_a_model_registered_elsewhere_under_this_name_is_no_obstacle(empty_registry):
    empty_registry.client.create_registered_model(NAME)
    empty_registry.search(16)
    empty_registry.done("register_model")
    assert empty_registry.aliases() == {"staging": 1}


def test_without_a_search_it_says_which_script_to_run(empty_registry):
    assert empty_registry.refused("register_model") == (
        "No finished search is in this store: run python src/hypertune2.py first\n"
    )


@pytest.mark.parametrize("alias", ["latest", "v1"])
def test_reserved_names_are_no_aliases(staged, alias):
    with pytest.raises(MlflowException, match="reserved"):
        staged.client.set_registered_model_alias(NAME, alias, "1")
