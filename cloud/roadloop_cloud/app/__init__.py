"""The one place that builds the cloud's objects and connects them, a module per subject.

store.py: database, telemetry, captures, jobs · registry.py: models, releases, keys · fleet.py: vehicles, rollouts,
campaigns · data.py: drift, labels, snapshots · learning.py: gate, retraining, loops · processes.py: what each process
of the service runs; `python -m roadloop_cloud.app` starts one.
"""

from roadloop_cloud.app.learning import LearningParts


class Application(LearningParts):
    """The services of one workspace, each built when it is first asked for."""
