"""A `Runner` does the training steps of one run, or of several side by side.

On a CPU it is a loop. On a GPU it owns everything that only a device needs: copies of the arrays, recorded steps,
tables of what changes from step to step, several runs in each launch (`cuda_runner.py`). `Trainer` knows about neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from svd_numpy.network.scoring import Score
from svd_numpy.train.trainer import Trainer


class Runner(Protocol):
    """Does the steps of its runs, which are all at the same step."""

    def advance(self, limit: int) -> None:
        """Do at least one and at most `limit` steps, within one epoch, and add them to the runs' progress."""

    def sync(self) -> None:
        """Make what the steps wrote into the arrays of the runs visible to the host."""

    def scores(self) -> list[dict[str, Score]]:
        """Score the pruned network of each run on its validation and test rows; call `sync` first."""


class HostRunner:
    """Steps of one run, one after the other, on the model's own backend."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        (self._trainer,) = trainers

    def advance(self, limit: int) -> None:
        """See `Runner.advance`: one step, so that Ctrl-C waits for no other."""
        self._trainer.step()

    def sync(self) -> None:
        """See `Runner.sync`: there is only one memory."""

    def scores(self) -> list[dict[str, Score]]:
        """See `Runner.scores`."""
        trainer = self._trainer
        return [{name: examples.score(trainer.model) for name, examples in trainer.scored.items()}]


def groups(trainers: Sequence[Trainer]) -> list[list[Trainer]]:
    """Divide runs of one recipe among runners: those that are at the same step on a GPU go side by side.

    They differ only in seed, labels, weights and the factor on the KL; each has the same results as on its own. A model
    with a layer that adds to the KL itself goes alone, and so does a run that may stop early.
    """
    found = list[list[Trainer]]()
    at_step: dict[int, list[Trainer]] = {}
    for trainer in trainers:
        alone = trainer.model.layers_add_to_kl or trainer.config.patience > 0
        if trainer.model.backend.name != "cuda" or trainer.done or alone:
            found.append([trainer])
            continue
        step = trainer.progress.step
        if step not in at_step:
            found.append(at_step.setdefault(step, []))
        at_step[step].append(trainer)
    return found


def make_runner(trainers: Sequence[Trainer]) -> Runner:
    """Make the runner of a group."""
    if trainers[0].model.backend.name == "cuda":
        from svd_numpy.train.cuda_runner import CudaRunner

        return CudaRunner(trainers)
    return HostRunner(trainers)
