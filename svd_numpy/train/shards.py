"""`ShardRunner`: steps whose batch is cut into shards, so that several processes can share it without changing a bit.

The number of shards is a setting of the run (`TrainConfig.shards`); the number of ranks is not. Each shard has its
gradient computed on its own, and the sum over shards runs along a binary tree, so that every sum has the same terms in
the same order whoever holds which shard. Rank r of n has S / n shards in a row: a branch of that tree.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from svd_numpy.checks import SvdError, SvdValueError
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.living import forms
from svd_numpy.network.objective import make_likelihood
from svd_numpy.network.replica import replica
from svd_numpy.network.scoring import Score
from svd_numpy.train.ranks import Ranks
from svd_numpy.train.resuming import identity
from svd_numpy.train.trainer import Progress, Trainer


class ShardRunner:
    """Steps of one run, with this rank's shards of each batch (see `runner.Runner`).

    Its shards go through the network layer by layer, side by side, each in a network of its own on shared parameters:
    a layer that needs to know about the whole batch (`Layer.survey`) then hears from all shards before any goes on.
    """

    def __init__(self, trainers: Sequence[Trainer], ranks: Ranks) -> None:
        (self._trainer,) = trainers
        model, config = self._trainer.model, self._trainer.config
        self._ranks, self._shards = ranks, config.shards
        own = config.shards // ranks.size
        self._own = range(ranks.rank * own, (ranks.rank + 1) * own)
        self._models = [model, *(replica(model) for _ in self._own[1:])]
        most = -(-min(config.batch_size, self._trainer.n_train) // config.shards)
        self._inputs = [np.empty((most, *self._trainer.batches.frame), model.input_dtype) for _ in self._own]
        self._d_outputs = [np.empty((most, *model.out_shape), model.dtype) for _ in self._own]

    def advance(self, limit: int) -> None:
        """See `Runner.advance`: one step. At the end of an epoch, compare the ranks."""
        trainer = self._trainer
        trainer.step(self.operations)
        if trainer.progress.step % trainer.steps_per_epoch == 0:
            self._compare()

    def _compare(self) -> None:
        """Raise unless all ranks have the same parameters."""
        found = self._ranks.gather(np.array([zlib.crc32(self._trainer.model.arena.params)]))
        if (found != found[0]).any():
            differ = np.flatnonzero(found != found[0]).tolist()
            raise SvdError(
                f"epoch {self._trainer.epoch}: the weights of ranks {differ} differ from those of rank 0, expected the "
                "same bits; run all ranks on one kind of processor, with the same packages, and for the backend "
                "'numpy' with OPENBLAS_NUM_THREADS=1"
            )

    def sync(self) -> None:
        """See `Runner.sync`: every rank has everything."""

    def scores(self) -> list[dict[str, Score]]:
        """See `Runner.scores`; the ranks share the examples."""
        model, ranks, found = self._trainer.model, self._ranks, dict[str, Score]()
        for part, examples in self._trainer.scored.items():
            sums = ranks.gather(examples.sums(model, ranks.rank, ranks.size)[None])
            found[part] = examples.score_of(sums.sum(axis=0))  # each batch has one rank; the others add 0
        return [found]

    def forms(self) -> dict[str, str]:
        """See `Runner.forms`."""
        return forms(self._trainer.model)

    def operations(self, backend: Backend, step: int, rows: slice, count: int, noise: int) -> tuple[float, float]:
        """Do the operations of one step, as `Trainer.operations` does; the noise of an example is the same."""
        trainer, (model, *_), targets = self._trainer, self._models, self._trainer.batches.targets
        batches, settings, total = trainer.batches, trainer.settings(step), trainer.batches.count(rows)
        cuts = [count * shard // self._shards for shard in range(self._shards + 1)]
        shards = [slice(rows.start + cuts[shard], rows.start + cuts[shard + 1]) for shard in self._own]
        runs = [trainer.pass_of(backend, step, settings, noise, cuts[shard]) for shard in self._own]
        for run in runs[1:]:
            run.learn = False  # running averages belong to the model, which has the first one
        inputs, d_outputs = (
            [array[: shard.stop - shard.start] for array, shard in zip(arrays, shards, strict=True)]
            for arrays in (self._inputs, self._d_outputs)
        )
        for shard, x in zip(shards, inputs, strict=True):
            examples, moves = batches.examples(shard, model.input_mean)
            backend.gather_rows(*examples, x, moves)
        outputs = self._forward([x.reshape(len(x), *model.inner_shape) for x in inputs], runs)
        found = []
        for shard, y, d in zip(shards, outputs, d_outputs, strict=True):
            found.append(model.likelihood.loss(backend, y, targets[shard], d))
            d *= d.dtype.type(batches.count(shard) / max(1, total))  # a mean over the shard becomes one over the batch
        nll, error = self._ranks.gather(np.array(found, np.float64)).sum(axis=0).tolist()
        if not math.isfinite(nll):
            return nll, error
        for shard, d in zip(shards, d_outputs, strict=True):
            batches.weigh(backend, shard, d)
        self._backward(d_outputs, runs)
        self._add_up()
        for layer in model.layers:
            layer.add_kl_gradients(backend, settings.kl_scale)
        trainer.update(backend, step, settings)
        return nll, error

    def _forward(self, xs: Sequence[Array], runs: Sequence[Pass]) -> Sequence[Array]:
        """Run the shards through all layers, side by side."""
        for layers in zip(*(model.layers for model in self._models), strict=True):
            self._hear([layer.survey(x, run) for layer, x, run in zip(layers, xs, runs, strict=True)], runs)
            xs = [layer.forward(x, run) for layer, x, run in zip(layers, xs, runs, strict=True)]
        return xs

    def _backward(self, ds: Sequence[Array | None], runs: Sequence[Pass]) -> None:
        """Write the gradients of each shard into the arena of its network."""
        for index in reversed(range(len(self._models[0].layers))):
            each = [(model.layers[index], d, run) for model, d, run in zip(self._models, ds, runs, strict=True)]
            self._hear([layer.survey_back(d, run, index > 0) for layer, d, run in each if d is not None], runs)
            ds = [layer.backward(d, run, index > 0) for layer, d, run in each if d is not None]

    def _hear(self, found: Sequence[Array | None], runs: Sequence[Pass]) -> None:
        """Tell every shard what all shards found out about themselves."""
        own = [each for each in found if each is not None]
        if own:
            everywhere = self._ranks.gather(np.stack(own))
            for run in runs:
                run.surveyed = everywhere

    def _add_up(self) -> None:
        """Sum the gradients of all shards into the model's arena, along a binary tree."""
        grads, distance = [model.arena.grads for model in self._models], 1
        while distance < len(grads):
            for at in range(0, len(grads), 2 * distance):
                grads[at] += grads[at + distance]
            distance *= 2
        self._ranks.add_up(grads[0])


def check_shards(trainer: Trainer, ranks: Ranks) -> None:
    """Raise unless a run can be cut into its shards, and they can be divided among the ranks."""
    model, config, shards = trainer.model, trainer.config, trainer.config.shards
    if shards % ranks.size:
        raise SvdValueError(
            f"shards: got {shards} for {ranks.size} ranks, expected a power of two that is a multiple of the number of "
            f"ranks, such as {max(4, 1 << (ranks.size - 1).bit_length())}; start 1, 2, 4, ... ranks"
        )
    if shards == 1:
        return
    if model.backend.name == "cuda":
        raise SvdValueError(f"shards: got {shards} on the backend 'cuda', expected 'numba' or 'numpy'")
    if recurrent := [layer.name for layer in model.layers if layer.needs_recurrence]:
        raise SvdValueError(f"shards: got {shards}, but the batches of layers {recurrent} cannot be cut yet; take 1")
    smallest = trainer.n_train % config.batch_size or config.batch_size
    if min(smallest, trainer.n_train) < shards:
        raise SvdValueError(
            f"shards: got {shards}, but the smallest batch has {smallest} of the {trainer.n_train:,} examples; "
            "expected at least one for each shard: choose another batch_size"
        )


def agree(trainer: Trainer, ranks: Ranks) -> None:
    """Give every rank the run as it is on rank 0, which may have restored it; raise if theirs is another one."""
    own = {
        "identity": identity(trainer),
        "progress": asdict(trainer.progress),
        "likelihood": trainer.model.config()["likelihood"],
    }
    told = ranks.tell(own)
    if told["identity"] != json.loads(json.dumps(own["identity"])):
        raise SvdValueError(
            f"ranks: rank {ranks.rank} has another model, other data or another configuration than rank 0, expected "
            "the same call with the same files on every rank"
        )
    with trainer.model.exclusive:
        for array in trainer.arrays().values():
            ranks.spread(array)
        trainer.model.likelihood = make_likelihood(**told["likelihood"])
    trainer.progress = Progress(**told["progress"])
