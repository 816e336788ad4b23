from contextlib import contextmanager

import numpy as np
import requests
from mlflow.models import convert_input_example_to_serving_input
from registry import NAME
from services import Service, free_port
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

DATA = load_breast_cancer(as_frame=True)
_, TEST = train_test_split(DATA.frame.astype(float), test_size=0.2, random_state=42)
ROWS = TEST.drop(columns="target")


def test_it_predicts_with_the_version_in_production(staged):
    predicted = staged.load(1).predict(ROWS)
    printed = staged.done("score_model")
    assert f"Version 1 of {NAME} is right on {sum(predicted == TEST['target'])} of 114\n" in printed
    table = [line.split() for line in printed.splitlines()[1:9]]
    for (row, actual, given), expected in zip(table, predicted, strict=False):
        assert actual == DATA.target_names[DATA.target[int(row)]]
        assert given == DATA.target_names[int(expected)]
    assert printed.count("Refused: ") == 2
    assert "Refused: Model is missing inputs ['mean radius'].\n" in printed
    assert "Refused: Incompatible input types for column mean radius. " in printed


def test_without_a_version_in_production_it_says_what_to_do(staged):
    staged.client.delete_registered_model_alias(NAME, "production")
    assert staged.refused("score_model") == (
        "No version is in production: run python src/promote_model.py, "
        "or with rollback after it where one was\n"
    )


def test_in_an_empty_registry_too(empty_registry):
    assert "run python src/promote_model.py" in empty_registry.refused("score_model")


def test_a_model_in_production_that_fails_to_load_can_be_rolled_back(staged):
    staged.done("promote_model")
    staged.lose_files(2)
    error = staged.refused("score_model")
    assert error.startswith("Version 2, in production, doesn't load: ")
    assert error.endswith("at fault, go back by python src/promote_model.py rollback\n")
    staged.done("promote_model", "rollback")
    assert "Version 1 of" in staged.done("score_model")


@contextmanager
def served(registry):
    """`mlflow models serve` as the README starts it; a function that asks it."""
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", f"models:/{NAME}@production"]
    service = Service(
        [*command, "--env-manager", "local", "--port", str(port)],
        registry.folder,
        port,
        path="/ping",
        MLFLOW_TRACKING_URI=registry.uri,
    )

    def ask(body):
        return requests.post(
            f"http://127.0.0.1:{port}/invocations",
            data=body,
            headers={"Content-Type": "application/json"},
            timeout=60,
        )

    try:
        yield ask
    finally:
        service.stop()


def test_http_answers_are_the_predictions_and_a_restart_follows_the_alias(staged):
    rows = DATA.data  # on the test rows alone both say the same
    old, new = staged.load(1).predict(rows), staged.load(2).predict(rows)
    assert not np.array_equal(old, new)
    body = convert_input_example_to_serving_input(rows)
    with served(staged) as ask:
        answer = ask(body)
        assert answer.status_code == 200
        assert np.array(answer.json()["predictions"]).tobytes() == old.tobytes()

        wrong = ask(convert_input_example_to_serving_input(rows.drop(columns="mean radius")))
        assert wrong.status_code == 400
        assert "Model is missing inputs ['mean radius']" in wrong.json()["message"]

        staged.done("promote_model")
        assert np.array(ask(body).json()["predictions"]).tobytes() == old.tobytes()
    with served(staged) as ask:
        assert np.array(ask(body).json()["predictions"]).tobytes() == new.tobytes()
