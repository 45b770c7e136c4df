"""Kills and full disks: whatever writes files is interrupted at every call, and training at random moments.

    python campaigns/kill.py                      # every call of every writer, and 200 random kills of a training run
    python campaigns/kill.py --every 20 --kills 2 # a trial
    python campaigns/kill.py --writers model fit  # some of them

The table goes to `benchmarks/results/kill.md`, the counts to `kill.json` beside it; a campaign that was interrupted
goes on from there. It forks, and so needs Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults import Disk, End, calls_of, cases_of, in_child
from tally import RESULTS, Judgement, Tally
from writers import State, Writer, file_writers, result_writers, run_state, run_writers, train, without_pictures

KILLED = "train_mnist, killed at random"
WORDS = """\
Whatever in the package writes files writes something new over something old; training runs start in a new folder.
Every call that opens, writes, syncs, renames or removes a file is a case of its own: the process is killed (SIGKILL)
before it, after it or, for a write, when half is written; or the call fails, because the disk is full (ENOSPC), because
it is broken (EIO), or after half of a write. Then what a reader finds is compared, byte for byte, with the old and the
new content. The writer is called again; a run that was begun is resumed. At last, leftovers are made a day older.

- *old*, *new*: what is found is whole. An error has been raised that names the file, if it is not the new content.
- *unfinished*: of files that are replaced together, the last one is not there; what is there is not mixed.
- *same bits*: the run ends as if nothing had happened: weights, log, checkpoint, result, pictures' data.
- *torn*, *lost*: half a file or a mixture; the new content missing, and no error. Always a fault.
- *stuck*: the writer does not succeed afterwards, a run ends otherwise, or a temporary file is left for good. A fault.
- *unclear*: an error that is not of this package or of the operating system, or does not name the file. A fault.
"""


def sandbox(folder: Path) -> Path:
    """Return an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def names(folder: Path) -> set[str]:
    """Names of all files and folders below a folder, without checkpoints: a killed run may keep one more than usual."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in found if not any(part.startswith("ckpt-") for part in path.parts)}


def age(folder: Path) -> None:
    """Make what an interrupted writer left two days old."""
    past = time.time() - 2 * 24 * 3600
    for path in folder.rglob(".tmp-*"):
        os.utime(path, (past, past), follow_symlinks=False)


def unclear(end: End, folder: Path) -> bool:
    """Whether a writer ended in an error that nobody can understand."""
    return end.how == "hung" or (end.how == "error" and not (end.ours and str(folder) in end.error))


class Judge:
    """Judges the cases of one writer in a folder.

    Parameters
    ----------
    writer : Writer
    folder : Path
        Removed and made anew for each case.
    every : int
        Only every n-th call is a case.
    """

    def __init__(self, writer: Writer, folder: Path, every: int) -> None:
        self.writer, self.folder = writer, folder
        self._prepare()
        self.old = self._state()
        self.calls = calls_of(self._write, folder)
        self.new, self.left = self._state(), names(folder)
        if not writer.run:
            self._write()
            self.left = names(folder)
        self.cases = cases_of(self.calls, every)

    def _prepare(self) -> None:
        sandbox(self.folder)
        if not self.writer.run:
            self.writer.write(self.folder, 0)

    def _write(self) -> None:
        self.writer.write(self.folder, 1)

    def _state(self) -> State:
        return self.writer.state(self.folder)

    def __call__(self, number: int) -> Judgement:
        """Judge one case."""
        at, kind = self.cases[number]
        self._prepare()
        end = in_child(self._write, Disk(self.folder, at, kind))
        verdict, words = self._verdict(end)
        where = f"{kind} at call {at} ({self.calls[at]}), which ended as {end.how} {end.error}: {words}"
        fault = verdict in ("torn", "lost", "stuck", "unclear")
        return verdict, where.replace(str(self.folder), "")[:600] if fault else "", fault

    def _verdict(self, end: End) -> tuple[str, str]:
        if unclear(end, self.folder):
            return "unclear", ""
        try:
            verdict = "same bits" if self.writer.run else self._found(self._state(), end.warned)
        except Exception as error:
            return "torn", f"{error}"
        if verdict == "torn" or (end.how == "done" and verdict in ("old", "unfinished")):
            return ("torn" if verdict == "torn" else "lost"), ""
        if not self.writer.run:
            again = in_child(self._write)
            if again.how != "done" or self._found(self._state()) != "new":
                return "stuck", f"the next time: {again}"
        age(self.folder)
        again = in_child(self._write)
        more, state = names(self.folder) - self.left, self._state()
        missing = [name for name, part in self.new.items() if state.get(name) != part]
        if end.warned:  # a picture that could not be written is not worth a run
            missing = [name for name in missing if not name.endswith((".npz", ".png"))]
        if again.how != "done" or more or missing:
            return "stuck", f"afterwards: {again}; left {sorted(more)}; not as it should be: {missing}"
        return verdict, ""

    def _found(self, state: State, warned: bool = False) -> str:
        """Say which content a reader finds; after a warning, a picture may be missing."""
        for verdict, whole in (("new", self.new), ("old", self.old)):
            differing = [name for name, part in whole.items() if state.get(name) != part]
            if not differing or (warned and all(name.endswith(".png") and name not in state for name in differing)):
                return verdict
        sides = [whole for whole in (self.old, self.new) if all(whole.get(n) == part for n, part in state.items())]
        return "unfinished" if self.writer.together not in ("", *state) and sides else "torn"


def random_kill(number: int, folder: Path, seconds: float, wanted: State) -> Judgement:
    """Kill a training run again and again at random moments until it is done."""
    rng = random.Random(number)
    sandbox(folder)
    for _ in range(rng.choice((1, 1, 2, 3))):
        end = in_child(lambda: train(folder, epochs=4), kill_after=rng.uniform(0, seconds))
        if end.how == "error":
            return "stuck", end.error, True
    age(folder)
    end = in_child(lambda: train(folder, epochs=4))
    try:
        state: Any = run_state(folder)
    except Exception as error:
        return "torn", f"{error}", True
    if end.how == "done" and state == wanted:
        return "same bits", "", False
    return "stuck", f"{end}; not as it should be: {[name for name in wanted if state.get(name) != wanted[name]]}", True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that are not done yet; return 1 if there were faults."""
    parser = argparse.ArgumentParser(description="Interrupt whatever writes files.")
    parser.add_argument("--every", type=int, default=1, help="interrupt every n-th call only (default each)")
    parser.add_argument("--kills", type=int, default=200, help="random kills of training (default 200)")
    parser.add_argument("--writers", nargs="+", help="names of rows of the table (default all)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of kill.json and kill.md")
    options = parser.parse_args(arguments)
    tally = Tally(options.out, "kill", "Kills and full disks", WORDS, arguments)
    without_pictures()
    writers = file_writers() | result_writers() | run_writers()
    chosen = options.writers or [*writers, KILLED]
    if unknown := set(chosen) - {*writers, KILLED}:
        parser.error(f"--writers: got {sorted(unknown)}, expected some of {[*writers, KILLED]}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "folder"
        for name in chosen:
            if name != KILLED:
                judge = Judge(writers[name], folder, options.every)
                row = name if options.every == 1 else f"{name}, every {options.every}th call"
                tally.run(row, len(judge.cases), judge)
        if KILLED in chosen and options.kills:
            started = time.monotonic()
            in_child(lambda: train(sandbox(folder), epochs=4))
            seconds, wanted = time.monotonic() - started, run_state(folder)
            tally.run(KILLED, options.kills, lambda number: random_kill(number, folder, seconds, wanted))
    return int(tally.faults > 0)


if __name__ == "__main__":
    sys.exit(main())
