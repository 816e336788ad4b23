"""Weights & Biases, offline: a run of the search and one of each candidate, in one group.

https://docs.wandb.ai/models/support/run_wandb_offline
https://docs.wandb.ai/models/runs/grouping
"""

import wandb
from job import BEST, CANDIDATES

for params, metrics in [*CANDIDATES, BEST]:
    with wandb.init(project="search", group="search", config=params, mode="offline") as run:
        run.log(metrics)
