"""What a person sees of a sweep while it runs: how many runs have ended, where the others stand."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from svd_numpy.experiments.sweep.task import Task
from svd_numpy.train.console import is_watched, say

SECONDS = 1.0  # between two looks
_TAIL = 2**12  # bytes of a log that hold its last record


@contextlib.contextmanager
def watching(tasks: Sequence[Task], progress: bool) -> Iterator[Callable[[Task, str], None]]:
    """Give the function that is told of every run that has ended."""
    if not progress:
        yield lambda task, said: None
    elif is_watched():
        with _bar(tasks) as report:
            yield report
    else:
        total, done = len(tasks), sum(task.finished for task in tasks)

        def tell(task: Task, said: str) -> None:
            nonlocal done
            done += not said
            say(f"{done:>4}/{total}  {Path(task.folder).name}  {said or _figures(task)}")

        if done:
            say(f"{done:>4}/{total}  done before")
        yield tell


@contextlib.contextmanager
def _bar(tasks: Sequence[Task]) -> Iterator[Callable[[Task, str], None]]:
    from tqdm.auto import tqdm

    done = sum(task.finished for task in tasks)
    ended = threading.Event()
    with tqdm(total=len(tasks), initial=done, unit="run", dynamic_ncols=True) as bar:

        def look() -> None:
            while not ended.wait(SECONDS):
                running = [words for task in tasks if not task.finished and (words := _epoch(task))]
                bar.set_postfix_str("; ".join(running[:4]), refresh=True)

        def report(task: Task, said: str) -> None:
            bar.update(not said)
            if said:
                bar.write(f"{Path(task.folder).name}: {said}")

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield report
        finally:
            ended.set()
            watcher.join()


def _epoch(task: Task) -> str:
    """Where a run stands, from the end of its log; "" where it has no log yet."""
    try:
        with (Path(task.folder) / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            last: Any = json.loads(file.read().splitlines()[-1])
        return f"{Path(task.folder).name} epoch {last['epoch']}"
    except (OSError, ValueError, IndexError, KeyError, TypeError):  # there is none, or it is being written
        return ""


def _figures(task: Task) -> str:
    row = task.row()
    error = "" if row["valid_error"] is None else f"error {100 * row['valid_error']:.2f} %  "
    return f"{error}compression {row['compression']:.1f}x  {row['seconds']:.0f} s"
