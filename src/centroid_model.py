"""The model that custom_model.py logs. MLflow stores a copy of this file, and runs it to load."""

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class NearestCentroid(PythonModel):
    def load_context(self, context):
        # MLflow says where its copy of the file is. A path of your own would be missing elsewhere.
        self.centroids = np.load(context.artifacts["centroids"])
        self.classes = np.array(context.model_config["classes"])

    def predict(self, model_input: np.ndarray, params: dict) -> np.ndarray:
        distances = np.linalg.norm(model_input[:, None] - self.centroids, axis=2)
        far = distances.min(axis=1) > params["farthest"]
        return np.where(far, "unknown", self.classes[distances.argmin(axis=1)])


set_model(NearestCentroid())
