"""Training at a terminal: progress, and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svd_numpy.train.trainer import Trainer


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on a signal, after finishing and (with a run folder) saving the current step."""

    def __init__(self, number: int, run_dir: Path | None) -> None:
        name = signal.Signals(number).name
        how = "nothing was saved: no run_dir was given"
        if run_dir:
            how = f"continue with run_dir={str(run_dir)!r}, resume=True"
        super().__init__(f"training stopped by {name}; {how}")
        self.number = number


class StopSignal:
    """Context in which a first SIGINT or SIGTERM only sets a flag; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self.number = int(signal.SIGINT)
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested, self.number = True, number

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # the only one that receives signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def say(text: object) -> None:
    """Print; a stream that fails must not end the training."""
    with contextlib.suppress(OSError, ValueError):
        print(text)


class Reporter:
    """Base class, which reports nothing."""

    def step(self, count: int) -> None:
        """Report that this many more steps are done."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Report an epoch's record."""

    def give_up(self) -> None:
        """Write nothing more: the stream has failed."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Clean up."""


def describe(record: dict[str, Any]) -> dict[str, str]:
    """The few numbers of a record that are of interest while waiting, as text."""
    total = record["compression"]
    shown = {"nll": f"{record['nll']:.4f}", "train error": f"{100 * record['train_error']:.2f}%"}
    if record["test_error"] is not None:
        shown["test error"] = f"{100 * record['test_error']:.2f}%"
    shown |= {"sparse": f"{100 * (1 - 1 / total):.1f}%", "compression": f"{total:.1f}x"}
    return {**shown, "living": f"{record['living']:,}", "ms/step": f"{record['ms_per_step']:.2f}"}


class BarReporter(Reporter):
    """A tqdm bar over all steps, with the time left."""

    def __init__(self, trainer: Trainer) -> None:
        from tqdm.auto import tqdm

        total = trainer.steps_per_epoch * trainer.config.total_epochs
        self._bar = tqdm(total=total, initial=trainer.progress.step, unit="step", dynamic_ncols=True)

    def step(self, count: int) -> None:
        """Move the bar."""
        self._bar.update(count)

    def epoch(self, record: dict[str, Any]) -> None:
        """Show the epoch's numbers next to the bar."""
        self._bar.set_postfix(epoch=record["epoch"], **describe(record), refresh=False)

    def give_up(self) -> None:
        """Keep tqdm from writing when the bar is collected."""
        self._bar.disable = True

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()


class LineReporter(Reporter):
    """One line per epoch, at most one a second, for logs."""

    def __init__(self, trainer: Trainer) -> None:
        self._total = trainer.config.total_epochs
        self._last = 0.0

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the epoch's numbers."""
        if time.monotonic() - self._last < 1 and record["epoch"] < self._total:
            return
        self._last = time.monotonic()
        text = "  ".join(f"{name} {value}" for name, value in describe(record).items())
        print(f"epoch {record['epoch']:>4}/{self._total}  {record['seconds']:7.1f} s  {text}", flush=True)


class CarefulReporter(Reporter):
    """Passes everything on to another reporter until its stream fails: that ends the report, not the training."""

    def __init__(self, make: Callable[[], Reporter]) -> None:
        self._inner = Reporter()
        with self._care():
            self._inner = make()

    @contextlib.contextmanager
    def _care(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: a closed file, or text that it cannot encode
            self._inner.give_up()
            self._inner = Reporter()

    def step(self, count: int) -> None:
        """Report that this many more steps are done."""
        with self._care():
            self._inner.step(count)

    def epoch(self, record: dict[str, Any]) -> None:
        """Report an epoch's record."""
        with self._care():
            self._inner.epoch(record)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._care():
            self._inner.__exit__(kind, error, trace)


def is_watched() -> bool:
    """Whether somebody looks on, in a terminal or a notebook, for whom a bar can move."""
    if sys.stderr is not None and sys.stderr.isatty():  # None in services, and where it was closed
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")  # that of a notebook; a terminal has none


def make_reporter(trainer: Trainer, progress: bool) -> Reporter:
    """Choose a bar for a terminal or notebook, lines for a log; nothing without `progress`."""

    def make() -> Reporter:
        return BarReporter(trainer) if is_watched() else LineReporter(trainer)

    return CarefulReporter(make) if progress else Reporter()
