"""Aim: a run of the search and one of each candidate, in one experiment.

https://aimstack.readthedocs.io/en/latest/quick_start/setup.html
"""

from aim import Run
from job import BEST, CANDIDATES

for params, metrics in [*CANDIDATES, BEST]:
    run = Run(experiment="search")
    run["hparams"] = params
    for name, value in metrics.items():
        run.track(value, name=name)
    run.close()
