"""DVCLive: a DVC experiment of the search and one of each candidate, in a git repo with DVC.

https://dvc.org/doc/dvclive/live
"""

from dvclive import Live
from job import BEST, CANDIDATES

for params, metrics in [*CANDIDATES, BEST]:
    with Live() as live:
        live.log_params(params)
        for name, value in metrics.items():
            live.log_metric(name, value)
