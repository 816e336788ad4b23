"""Sacred: a run of the search and one of each candidate, observed into files.

https://sacred.readthedocs.io/en/stable/observers.html
https://sacred.readthedocs.io/en/stable/collected_information.html
"""

from job import BEST, CANDIDATES
from sacred import Experiment
from sacred.observers import FileStorageObserver

for params, metrics in [*CANDIDATES, BEST]:
    experiment = Experiment("search")
    experiment.observers.append(FileStorageObserver("runs"))
    experiment.add_config(params)

    @experiment.main
    def log(_run, metrics=metrics):
        for name, value in metrics.items():
            _run.log_scalar(name, value)

    experiment.run()
