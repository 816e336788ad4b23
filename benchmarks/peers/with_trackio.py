"""Trackio: a run of the search and one of each candidate, in one group.

https://huggingface.co/docs/trackio/track
"""

import trackio
from job import BEST, CANDIDATES

for params, metrics in [*CANDIDATES, BEST]:
    trackio.init(project="search", group="search", config=params)
    trackio.log(metrics)
    trackio.finish()
