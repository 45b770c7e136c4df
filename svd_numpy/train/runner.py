"""A `Runner` does the training steps of one run, or of several side by side.

On a CPU it is a loop. On a GPU it owns everything that only a device needs: copies of the arrays, recorded steps,
tables of what changes from step to step, several runs in each launch (`cuda_runner.py`). Where weights are removed, it
works on a small copy of the network, with another runner inside; where batches are cut into shards, several processes
share them (`shards.py`). `Trainer` knows about none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from svd_numpy.network.living import LivingCopy, forms
from svd_numpy.network.scoring import Score
from svd_numpy.train.ranks import ALONE, Ranks
from svd_numpy.train.shards import ShardRunner
from svd_numpy.train.trainer import Trainer


class Runner(Protocol):
    """Does the steps of its runs, which are all at the same step."""

    def advance(self, limit: int) -> None:
        """Do at least one and at most `limit` steps, within one epoch, and add them to the runs' progress."""

    def sync(self) -> None:
        """Make what the steps wrote into the arrays of the runs visible to the host."""

    def scores(self) -> list[dict[str, Score]]:
        """Score the pruned network of each run on its validation and test rows; call `sync` first."""

    def forms(self) -> dict[str, str]:
        """What the last step of each layer computed on (`network.living.forms`)."""


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

    def forms(self) -> dict[str, str]:
        """See `Runner.forms`."""
        return forms(self._trainer.model)


class _OnCopy(Trainer):
    """A run as its small copy sees it. The network itself is pruned, and the copy made anew."""

    prunes_now = False

    def __init__(self, trainer: Trainer, copy: LivingCopy) -> None:
        vars(self).update(vars(trainer))  # data, progress and all else are shared
        self.model, self._large = copy.model, trainer
        self._copy, self._units = copy, {name: copy.outputs.get(name, slice(None)) for name in trainer.carried}
        self.pruner = None if trainer.pruner is None else trainer.pruner.on(copy)
        self.gather()

    def gather(self) -> None:
        """Take over the states of those units that are left, and what the pruner remembers of their weights."""
        self._exchange(back=False)
        self.carried = {name: state[..., self._units[name]].copy() for name, state in self._large.carried.items()}

    def scatter(self) -> None:
        """Put them back."""
        self._exchange(back=True)
        for name, state in self.carried.items():
            self._large.carried[name][..., self._units[name]] = state

    def _exchange(self, back: bool) -> None:
        if self._large.pruner is not None and self.pruner is not None:
            self._large.pruner.exchange(self.pruner, self._copy, back)


class LivingRunner:
    """Does the steps of a run that removes weights, on a copy of the network with the living ones.

    After `sync` the network is the truth, as with `CudaRunner`; the next step copies what is left of it then.
    """

    def __init__(self, trainers: Sequence[Trainer], ranks: Ranks) -> None:
        (self._trainer,), self._ranks = trainers, ranks
        self._copy: LivingCopy | None = None
        self._on: _OnCopy
        self._inner: Runner
        self._ahead = False  # whether the copy is newer than the network

    def _take(self) -> Runner:
        """Bring the copy up to date; make a new one if fewer weights are left than it has."""
        if not self._ahead:
            with self._trainer.model.exclusive:
                if self._copy is not None and self._copy.fits:
                    self._copy.gather()
                    self._on.gather()
                else:
                    self._copy = LivingCopy(self._trainer.model)
                    self._on = _OnCopy(self._trainer, self._copy)
                    self._inner = _make_whole([self._on], self._ranks)
            self._ahead = True
        return self._inner

    def advance(self, limit: int) -> None:
        """See `Runner.advance`."""
        if self._trainer.prunes_now:
            self.sync()
            with self._trainer.model.exclusive:
                self._trainer.prune()
        self._take().advance(limit)

    def sync(self) -> None:
        """See `Runner.sync`."""
        if self._ahead and self._copy is not None:
            self._inner.sync()
            with self._trainer.model.exclusive:
                self._copy.scatter()
                self._on.scatter()
            self._ahead = False

    def scores(self) -> list[dict[str, Score]]:
        """See `Runner.scores`."""
        inner = self._take()
        found = inner.scores()
        self.sync()
        return found

    def forms(self) -> dict[str, str]:
        """See `Runner.forms`."""
        return self._inner.forms()


def groups(trainers: Sequence[Trainer]) -> list[list[Trainer]]:
    """Divide runs of one recipe among runners: those that are at the same step on a GPU go side by side.

    They differ only in seed, labels, weights and the factor on the KL; each has the same results as on its own. A model
    with a layer that works on the host goes alone, and so does a run that may stop early, or one that removes
    weights: its arrays get a size of their own.
    """
    found = list[list[Trainer]]()
    at_step: dict[int, list[Trainer]] = {}
    for trainer in trainers:
        alone = trainer.model.works_on_host or trainer.removes or trainer.config.patience > 0
        if trainer.model.backend.name != "cuda" or trainer.done or alone:
            found.append([trainer])
            continue
        step = trainer.progress.step
        if step not in at_step:
            found.append(at_step.setdefault(step, []))
        at_step[step].append(trainer)
    return found


def make_runner(trainers: Sequence[Trainer], ranks: Ranks = ALONE) -> Runner:
    """Make the runner of a group, on this rank."""
    return LivingRunner(trainers, ranks) if trainers[0].removes else _make_whole(trainers, ranks)


def _make_whole(trainers: Sequence[Trainer], ranks: Ranks) -> Runner:
    """Make a runner that works on whole networks."""
    if trainers[0].config.shards > 1:
        return ShardRunner(trainers, ranks)
    if trainers[0].model.backend.name == "cuda":
        from svd_numpy.train.cuda_runner import CudaRunner

        return CudaRunner(trainers)
    return HostRunner(trainers)
