"""An executor for the suite: a worker process takes seconds to start."""

from normscope.studies.runner import execute


class TrainsHere:
    """Trains one run after the other in the process of the test."""

    def __init__(self, jobs=1):
        pass

    def run(self, tasks, report):
        for task in tasks:
            yield task, execute(task, report)
