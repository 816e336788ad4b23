"""ClearML, offline: a task of the search and one of each candidate, in one project.

https://clear.ml/docs/latest/docs/guides/set_offline
https://clear.ml/docs/latest/docs/fundamentals/logger
"""

from clearml import Task
from job import BEST, CANDIDATES

Task.set_offline(True)
for params, metrics in [*CANDIDATES, BEST]:
    task = Task.init("search", reuse_last_task_id=False)
    task.connect(params)
    for name, value in metrics.items():
        task.get_logger().report_single_value(name, value)
    task.close()
