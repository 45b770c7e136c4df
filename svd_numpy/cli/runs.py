"""What all commands that train share: they write to a run folder, and go on with a run that was stopped."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from svd_numpy.checks import SvdValueError, as_path
from svd_numpy.cli.output import release_stdout

PROGRAM = "svd-numpy"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A command whose fields are the arguments of a function that trains."""

    if TYPE_CHECKING:  # each command has them in its own place among its options
        run_dir: Path | None
        resume: bool
        extend: int

    word: ClassVar[str]  # the subcommand

    def train(self, **options: Any) -> Any:
        """Train with these options."""
        raise NotImplementedError

    def default_run_dir(self) -> Path:
        """Name the run folder after what is trained; refuse an unknown architecture or recipe before reading data."""
        raise NotImplementedError

    def run(self) -> int:
        """Train; 0 when finished, 1 when finished but not printed, 128 + signal number when stopped."""
        from svd_numpy.train.console import TrainingInterrupted
        from svd_numpy.train.ranks import ALONE, join_ranks

        options = {field.name: getattr(self, field.name) for field in fields(self)}
        ranks, program = ALONE, [PROGRAM]
        if options.get("ranks"):
            ranks = join_ranks()
            program = ["mpiexec", "-n", str(ranks.size), "python", "-m", "mpi4py", "-m", "svd_numpy"]
        if "ranks" in options:
            options["ranks"] = ranks
        folder = as_path("run_dir", options["run_dir"] or self.default_run_dir())
        if ranks.rank == 0:
            check_run_dir(folder, options["resume"])
        finished = (folder / "result.json").is_file() and not self.extend
        try:
            result = self.train(**{**options, "run_dir": folder})
        except TrainingInterrupted as stop:
            if ranks.rank:
                return 0  # rank 0 has the last word, and its status ends all
            again = replace(self, run_dir=folder, resume=True).command_line(*program)
            print(f"\n{stop}\nor on the command line: {again}", file=sys.stderr)
            return 128 + stop.number
        if ranks.rank:
            return 0
        try:
            print(f"The run in {folder} had already finished:\n{result}" if finished else result)
            print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
            print(f"pictures: {shlex.join([PROGRAM, 'report', str(folder)])}", flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            print(
                f"{PROGRAM}: the run is finished and kept in {folder}, but stdout could not take its results "
                f"({error.strerror}); print them again with: {shlex.join([PROGRAM, 'report', str(folder)])}",
                file=sys.stderr,
            )
            release_stdout()
            return 1
        return 0

    def command_line(self, *program: str) -> str:
        """Write this command as one would type it, without the options that have their default."""
        words = [*(program or (PROGRAM,)), self.word]
        for field in fields(self):
            value, option = getattr(self, field.name), field.name.replace("_", "-")
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", *map(str, value if isinstance(value, tuple) else [value])]
        return shlex.join(words)


def check_run_dir(folder: Path, resume: bool) -> None:
    """Refuse to start in the folder of an existing run, or to resume a run that is not there."""
    from svd_numpy.experiments.series import begun

    exists = begun(folder) or (folder / "result.json").exists()  # a first checkpoint that failed is no run
    if exists and not resume:
        raise SvdValueError(f"{folder} already holds a run: --resume goes on with it, --run-dir names another folder")
    if resume and not exists:
        raise SvdValueError(f"{folder} holds no run to go on with: leave out --resume, or correct --run-dir")
