"""The command line: one frozen dataclass per subcommand, whose fields are its options.

`tyro` turns the dataclasses and their docstrings into parsers. Parsing imports nothing heavy; each `run`
imports what it needs.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

from svd_numpy import __version__
from svd_numpy.checks import SvdError
from svd_numpy.cli.bench import Bench
from svd_numpy.cli.data import Data
from svd_numpy.cli.doctor import Doctor
from svd_numpy.cli.exports import Card, Demo, ExportC, Pack
from svd_numpy.cli.gradcheck import Gradcheck
from svd_numpy.cli.output import release_stdout
from svd_numpy.cli.reproduce import Reproduce
from svd_numpy.cli.runs import PROGRAM
from svd_numpy.cli.saved_runs import Animate, Evaluate, Report, Uncertainty
from svd_numpy.cli.sweeps import Sweep
from svd_numpy.cli.text import Generate, TrainSentiment, TrainText
from svd_numpy.cli.train import Train, TrainCifar
from svd_numpy.cli.warm_up import WarmUp
from svd_numpy.files.atomic import FULL

DEBUG = "SVD_NUMPY_DEBUG"
DESCRIPTION = (
    '"SVD" means Sparse Variational Dropout here (Molchanov, Ashukha and Vetrov, 2017), never the singular value '
    "decomposition. It trains a network and finds out which of its weights can be removed."
)


class Command(Protocol):
    """A parsed command line, ready to run."""

    def run(self) -> int:
        """Do it and return the exit status."""


COMMANDS: dict[str, Callable[..., Command]] = {
    "train": Train,
    "train-cifar": TrainCifar,
    "reproduce": Reproduce,
    "sweep": Sweep,
    "train-text": TrainText,
    "train-sentiment": TrainSentiment,
    "generate": Generate,
    "evaluate": Evaluate,
    "uncertainty": Uncertainty,
    "report": Report,
    "animate": Animate,
    "pack": Pack,
    "export-c": ExportC,
    "demo": Demo,
    "card": Card,
    "bench": Bench,
    "gradcheck": Gradcheck,
    "data": Data,
    "doctor": Doctor,
    "warm-up": WarmUp,
}


def parse(arguments: Sequence[str]) -> Command:
    """Turn command-line words into a command; SystemExit for --help and for words that make no sense."""
    import tyro

    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog=PROGRAM,
        description=DESCRIPTION,
        args=list(arguments),
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.PositionalRequiredArgs),
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        Exit status: 0 done; 1 a check found something wrong, or a finished run could not be printed; 2 a wrong
        argument, an unusable file or a full disk; 70 a fault in this package; 128 + n stopped by signal n.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # print every file name, whatever the terminal's encoding
    try:
        status = parse(sys.argv[1:] if arguments is None else arguments).run()
        print(end="", flush=True)  # here, where a failure can still be handled
        return status
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has gone
        release_stdout()
        return 141
    except Exception as error:
        release_stdout()
        if os.environ.get(DEBUG):
            raise
        if message := what_to_put_right(error):
            print(f"{PROGRAM}: {message}", file=sys.stderr)
            return 2
        traceback.print_exception(error)
        print(
            f"{PROGRAM} {__version__}: this is a fault in {PROGRAM}, not in what you asked for. Please report it, with "
            f"the lines above, the command you typed and what `{PROGRAM} doctor` prints.",
            file=sys.stderr,
        )
        return 70


def what_to_put_right(error: Exception) -> str:
    """Return what the user can put right, in words; "" where the error is a fault in the package.

    Every error that the package raises on purpose is an `SvdError`. The user can also help with files that the
    system does not let us read or write, and with too little memory.
    """
    if isinstance(error, SvdError):
        return str(error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        return f"{'could not write' if error.filename is None else error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory ({error or 'no details'}); try a smaller batch or a smaller network"
    return ""
