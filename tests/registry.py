"""A model registry in a state that a test needs, in seconds."""

import shutil
import sqlite3
from contextlib import closing

import mlflow
from filled import copy_repo
from lessons import copy_with_grid
from mlflow import MlflowClient
from patched import before, run_patched
from running import PYTHON, ROOT, run, run_script, uri
from sentences import assert_one_sentence, assert_success

NAME = "breast-cancer-forest"
# What hypertune2 leaves, without the search: a run with the tag, the data, one child and a model.
SEARCH = """
import sys
import mlflow
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from tracking import connect

connect()
mlflow.set_experiment("hypertune2")
data = load_breast_cancer(as_frame=True).frame.astype(float)
train, test = train_test_split(data, test_size=float(sys.argv[1]), random_state=42)
X, y = train.drop(columns="target"), train["target"]
trees, depth = map(int, sys.argv[3:5])
weights = {0: float(sys.argv[5]), 1: 1} if sys.argv[5:] else None
forest = RandomForestClassifier(trees or 1, max_depth=depth, random_state=42, class_weight=weights)
forest.fit(X, y if trees else 1 - y)  # no trees: one that has learnt the contrary
with mlflow.start_run(run_name="search", tags={"search": "breast-cancer-forest"}) as run:
    for split, name in zip((train, test), sys.argv[2].split(), strict=True):
        dataset = mlflow.data.from_pandas(
            split, name=f"breast-cancer-{name}", targets="target", source="https://example.com"
        )
        mlflow.log_input(dataset, context=name)
    with mlflow.start_run(run_name=f"{trees} trees", nested=True):
        mlflow.log_metric("rank_test_score", 1)
    mlflow.sklearn.log_model(
        forest,
        name="best-forest",
        signature=infer_signature(X, forest.predict(X)),
        skops_trusted_types=["sklearn.tree._tree.Tree"],
        pip_requirements=["scikit-learn"],
    )
print("run", run.info.run_id)
"""


def small_repo(folder, grid):
    """Make FOLDER a copy of the repo; its hypertune2 has this GRID and an experiment of its own."""
    copy_repo(folder)
    script = copy_with_grid(folder, "hypertune2", grid)
    text = script.read_text()
    own = text.replace('set_experiment("hypertune2")', 'set_experiment("small-search")')
    assert own != text
    script.write_text(own)


class Registry:
    """A SQLite store in a folder, the scripts on it, and what it holds."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = uri(folder)
        self.client = MlflowClient(self.uri, registry_uri=self.uri)

    def search(self, trees, depth=None, *weight, test_size=0.2, contexts="training testing", **env):
        """Log a finished search whose best forest has so many trees; return its run.

        With a WEIGHT a malignant tumour counts so many times.
        """
        depth = depth or 2 + trees // 16
        command = [PYTHON, "-c", SEARCH, *map(str, (test_size, contexts, trees, depth, *weight))]
        env |= {"MLFLOW_TRACKING_URI": self.uri, "PYTHONPATH": str(ROOT / "src")}
        printed = assert_success(run(command, self.folder, **env))
        return self.client.get_run(printed.split()[-1])

    def script(self, name, *args):
        """Run the script; return the process."""
        return run_script(name, self.folder, *args, MLFLOW_TRACKING_URI=self.uri)

    def done(self, name, *args):
        """Run the script, with success; what it printed, less connect()'s lines."""
        printed = assert_success(self.script(name, *args))
        return "".join(printed.splitlines(keepends=True)[2:])

    def refused(self, name, *args, longest=350):
        """Run the script, which must refuse, and change nothing; its sentence."""
        before = self.state()
        sentence = assert_one_sentence(self.script(name, *args), longest=longest)
        assert self.state() == before
        return sentence

    def server_fails(self, name):
        """Run the script while the server fails to give the model; its last line on stderr."""
        fault = "raise mlflow.MlflowException('API request to it failed with error code 500')"
        result = run_patched(name, before("mlflow.pyfunc.load_model", fault), self.folder)
        assert result.returncode == 1
        return result.stderr.splitlines()[-1]

    def aliases(self):
        """The version that each alias points to."""
        return dict(self.client.get_registered_model(NAME).aliases)

    def tags(self, number):
        return self.client.get_model_version(NAME, str(number)).tags

    def state(self):
        """All that the registry holds."""
        models = self.client.search_registered_models()
        versions = self.client.search_model_versions()
        return [
            [(each.name, each.aliases, each.tags, each.description) for each in models],
            [(each.version, each.source, each.tags, each.description) for each in versions],
        ]

    def register_by_hand(self, number, name=NAME):
        """Make another version, or one of another NAME, of the model of version NUMBER."""
        source = self.client.get_model_version(NAME, str(number)).source
        code = (
            f"from mlflow import MlflowClient; MlflowClient().create_model_version(*{name, source})"
        )
        assert_success(run([PYTHON, "-c", code], self.folder, MLFLOW_TRACKING_URI=self.uri))

    def add_others(self):
        """Models of others, first and last in the alphabet; the last one is in production."""
        for name in "another", "zoo":
            self.client.create_registered_model(name)
        self.register_by_hand(1, "zoo")
        self.client.set_registered_model_alias("zoo", "production", "1")

    def delete(self, number):
        self.client.delete_model_version(NAME, str(number))

    def lose_files(self, number):
        """Let the version's model be where there is nothing."""
        source = self.client.get_model_version(NAME, str(number)).source
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database, database:
            for change, key in [
                ("logged_models SET artifact_location = ? WHERE model_id = ?", source[8:]),
                ("model_versions SET storage_location = ? WHERE version = ?", number),
            ]:
                gone = str(self.folder / "gone")
                assert database.execute(f"UPDATE {change}", (gone, key)).rowcount == 1

    def load(self, number):
        """The version's model, loaded in this process."""
        source = self.client.get_model_version(NAME, str(number)).source
        model = self.client.get_logged_model(source.removeprefix("models:/"))
        return mlflow.pyfunc.load_model(model.artifact_location)

    def copy(self, folder):
        """A copy of the store; the models' files stay where they are."""
        shutil.copy(self.folder / "mlflow.db", folder)
        return Registry(folder)
