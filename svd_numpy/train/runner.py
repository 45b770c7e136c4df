"""Who moves training steps forward: a `Runner`, one for a run or for several that go side by side.

On a processor it is a loop. On a GPU it owns what only a device needs: copies of the arrays, a recorded step, tables of
what changes from step to step, several runs in each launch (`cuda_runner.py`). The trainer knows of neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from svd_numpy.network.scoring import Score
from svd_numpy.train.trainer import Trainer


class Runner(Protocol):
    """Does the steps of its runs, all of which stand at the same step."""

    def advance(self, limit: int) -> None:
        """Do one step or more, at most `limit`, none beyond the end of the epoch; enter them into the progress."""

    def sync(self) -> None:
        """Let the host see what the steps wrote into the arrays of the runs."""

    def scores(self) -> list[dict[str, Score]]:
        """Score the pruned network of each run on what it is scored on; after `sync`."""


class HostRunner:
    """Steps of one run, one after the other, on the model's own backend."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        (self._trainer,) = trainers

    def advance(self, limit: int) -> None:
        """See `Runner.advance`: one step, so that Ctrl-C waits for no other."""
        self._trainer.step()

    def sync(self) -> None:
        """See `Runner.sync`: there is one memory."""

    def scores(self) -> list[dict[str, Score]]:
        """See `Runner.scores`."""
        trainer = self._trainer
        return [{name: examples.score(trainer.model) for name, examples in trainer.scored.items()}]


def groups(trainers: Sequence[Trainer]) -> list[list[Trainer]]:
    """Share runs of one recipe out among runners: those on a GPU that stand at the same step go side by side.

    They differ in seed, labels, weights and the factor on the KL only; the results are those of each alone. A layer
    that adds to the KL itself does so for one run.
    """
    found = list[list[Trainer]]()
    at_step: dict[int, list[Trainer]] = {}
    for trainer in trainers:
        if trainer.model.backend.name != "cuda" or trainer.done or trainer.model.layers_add_to_kl:
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
