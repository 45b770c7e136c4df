"""`sweep`: many runs of one experiment with varied numbers; started again, it does only what is missing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdTypeError, SvdValueError, as_path, check_choice, check_count, check_flag
from svd_numpy.experiments.methods import get_method
from svd_numpy.experiments.options import Options, check_changes
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.run import configure
from svd_numpy.experiments.sweep.doing import do_all
from svd_numpy.experiments.sweep.engines import check_scheduler
from svd_numpy.experiments.sweep.points import is_varied, points, word
from svd_numpy.experiments.sweep.result import SweepResult
from svd_numpy.experiments.sweep.task import Task, arguments, function_of
from svd_numpy.files.atomic import loads_strict, write_atomic

PLAN = "sweep.json"
_SWEPT = ("mnist", "cifar")  # experiments on images, of which some can be held out
_OURS = ("run_dir", "resume", "progress", "callbacks", "seed", "seeds", "extend", "changes")


def sweep(
    experiment: str = "mnist",
    *,
    run_dir: str | Path,
    seeds: int | Iterable[int] = 1,
    samples: int | None = None,
    search_seed: int = 0,
    held_out: float = 0.1,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
    **numbers: Any,
) -> SweepResult:
    """Train many networks with varied numbers, and compare them on training images that were held out.

    Each run has a folder of its own in `run_dir`. A sweep that was stopped is started again by the same call: it does
    only what is missing, and runs that had begun go on where they stood. Values and seeds can be added.

    Parameters
    ----------
    experiment : "mnist" or "cifar"
        `train_mnist` or `train_cifar`.
    run_dir : path
        The folder of the sweep.
    seeds : int, or whole numbers
        The seeds of each point; 3 stands for 0, 1, 2.
    samples : int, optional
        A random search over so many points. None: every combination of the values.
    search_seed : int
        Seed of the random points.
    held_out : float
        Share of the training images that choices are made by. The test images are never looked at for the table.
    jobs : int
        Runs at the same time. They share the processor cores.
    scheduler : str, optional
        Do the runs on a Dask cluster: the address of its scheduler, such as "tcp://host:8786", or "local" for a cluster
        of `jobs` workers on this machine, with Dask's dashboard. None: processes of this machine.
    progress : bool
        Show a bar (in a terminal or a notebook) or a line per finished run (elsewhere).
    **numbers
        Arguments of the experiment, and numbers of its recipe (fields of `TrainConfig`). A list, a range or a `Between`
        is varied; anything else, tuples included, is one value for all runs.

    Returns
    -------
    SweepResult
        Also written to the folder: `sweep.md` and `sweep.png`.

    Raises
    ------
    SvdValueError, SvdTypeError
        For arguments that make no sense, before anything is written, and for a folder with another sweep;
        `ClusterError` if there is no scheduler, or workers keep dying.
    KeyboardInterrupt
        On Ctrl-C: runs that are in progress keep their last checkpoint.

    Examples
    --------
    >>> svd.sweep(run_dir="kl", dataset="digits", recipe="small", kl_weight=[0.3, 1.0, 3.0], seeds=3)  # doctest: +SKIP
    """
    folder, progress, jobs = as_path("run_dir", run_dir), check_flag("progress", progress), check_count("jobs", jobs)
    scheduler = check_scheduler(scheduler)
    check_choice("experiment", experiment, _SWEPT)
    own = set(inspect.signature(function_of(experiment)).parameters)
    if ours := [name for name in numbers if name in _OURS]:
        raise SvdTypeError(f"{ours[0]}: a sweep sets this argument of its runs itself; leave it out")
    check_changes({name: None for name in numbers if name not in own})
    chosen = range(check_count("seeds", seeds)) if isinstance(seeds, int) else [*seeds]
    varied = {name: values for name, values in numbers.items() if is_varied(values)}
    fixed = {name: value for name, value in numbers.items() if name not in varied}
    listed = points(varied, samples, check_count("search_seed", search_seed, low=0))
    shared = {**arguments(fixed, own), "held_out": held_out}
    tasks = []
    for point in listed:
        for seed in chosen:
            words = [*(word(name, value) for name, value in point.items()), f"seed={check_count('seeds', seed, low=0)}"]
            tasks.append(Task(experiment, str(folder / "-".join(words)), {**point, "seed": seed}, shared))
    for task in tasks:
        _check(task)
    keep_plan(folder, {"experiment": experiment, "varied": sorted(varied), "fixed": _plain(shared)})
    failed = do_all(tasks, jobs, scheduler, progress)
    result = SweepResult([task.row() for task in tasks if task.finished], sorted(varied), failed)
    result.save(folder)
    return result


def _check(task: Task) -> None:
    """Refuse numbers that make no sense, before there is anything in the folder."""
    defaults = inspect.signature(function_of(task.experiment)).parameters
    given = {name: defaults[name].default for name in ("dataset", "arch")}
    given |= arguments({**task.options, **task.point}, set(defaults))
    given = {name: value for name, value in given.items() if name in Options.__dataclass_fields__}
    options = Options(**given, run_dir=task.folder)
    configure(get_method(options.method).adapt(get_recipe(options.arch, options.recipe)).config, options)


def _plain(value: Any) -> Any:
    """The value as it is read back from JSON."""
    try:
        return json.loads(json.dumps(value, default=str, allow_nan=False))
    except ValueError:
        return json.loads(json.dumps(str(value)))


def keep_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write down what all runs of the folder share; refuse a folder in which they share something else."""
    path = folder / PLAN
    if path.is_file():
        try:
            before = loads_strict(path.read_bytes())
        except ValueError as error:
            raise SvdValueError(
                f"{path} is damaged ({error}); restore it from a copy, or take another folder"
            ) from error
        if before != plan:
            differs = [name for name in plan if not isinstance(before, dict) or before.get(name) != plan[name]]
            raise SvdValueError(
                f"run_dir: {folder} holds another sweep (differs in {', '.join(differs)}: {before}); "
                "take another folder"
            )
        return
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):  # those are leftovers
        raise SvdValueError(f"run_dir: {folder} holds something else already; take another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(plan, indent=1).encode())
