"""`do_all`: what `sweep` and `reproduce` share, doing the runs that are missing on an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svd_numpy.experiments.sweep.engines import Ended, on_a_cluster, on_this_machine
from svd_numpy.experiments.sweep.task import Task
from svd_numpy.experiments.sweep.watch import watching


def do_all(tasks: Sequence[Task], jobs: int, scheduler: str | None, progress: bool) -> dict[str, str]:
    """Do the tasks that have not finished; return why some have not, by folder.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, and if a run says that it was stopped; the runs keep their last checkpoints.
    ClusterError
        If there is no scheduler, or workers keep dying.
    """
    missing = [task for task in tasks if not task.finished]
    ended: Ended = on_this_machine(missing, jobs) if scheduler is None else on_a_cluster(missing, jobs, scheduler)
    failed = {}
    with watching(tasks, progress) as report:
        for task, said in ended:
            if said == "stopped":
                raise KeyboardInterrupt("the runs were stopped; the same call goes on with them")
            if not said and not task.finished:
                folder = Path(task.folder).parent.resolve()
                said = f"has ended, but not in this folder; all machines must see {folder} under this path"
            if said:
                failed[task.folder] = said
            report(task, said)
    return failed
