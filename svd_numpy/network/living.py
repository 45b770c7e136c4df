"""Living weights: what is dead leaves for good, and training goes on with a small copy of the rest.

The network itself keeps its size. Removed weights are 0, without noise, and held by the mask of the arena, so that
sparsity, pictures, checkpoints and files need to know nothing of removal. A `LivingCopy` is what the steps compute on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import Array
from svd_numpy.network.closed import close
from svd_numpy.network.layers.base import Layer, Pass
from svd_numpy.network.layers.recurrent import also_read
from svd_numpy.network.layers.weighted import Weighted
from svd_numpy.network.model import Sequential
from svd_numpy.network.take import arrays_of, take

# On lists, a living weight takes as long as this many weights of a matrix, dead or alive: of a dense layer, and of a
# convolution, whose gradients run through all positions of an image (benchmarks/living.py).
LIST_COST, CONV_LIST_COST = 2.5, 5.0
MATRIX_COST = 5000  # so many weights take as long as the kernels of one more dense layer, of which a stack needs none


def living(model: Sequential) -> dict[str, Array]:
    """Which weights have not been removed, as {layer name: bool array (I, O)}."""
    found = {}
    for layer in _weighted(model):
        mask = model.arena.mask_views[f"{layer.name}.theta"]
        found[layer.name] = mask.reshape(-1, mask.shape[-1]).astype(bool)
    return found


def count_living(model: Sequential) -> int:
    """Count the weights that have not been removed."""
    return sum(int(np.count_nonzero(model.arena.mask_views[f"{layer.name}.theta"])) for layer in _weighted(model))


def forms(model: Sequential) -> dict[str, str]:
    """What the steps of each layer compute on: "lists" of living weights, or a "matrix"."""
    return {layer.name: "matrix" if layer.living is None else "lists" for layer in _weighted(model)}


def remove(model: Sequential, threshold: float) -> int:
    """Remove for good all weights whose log_alpha is above a threshold, and what they make useless.

    A unit (or channel) without living inputs is a constant: what it adds goes into the biases behind it, and the
    weights that read it are removed. Then the weights of units that nothing reads are removed. The outputs of the
    pruned network stay the same.

    Returns
    -------
    int
        Number of weights removed now.
    """
    before, alive = living(model), living(model)
    for variational in model.variational_layers:
        alive[variational.name] &= variational.alive(threshold)
    close(model.layers, alive)
    weighted = _weighted(model)
    for layer, following in pairwise(weighted):
        _fold_constants(model, layer, following, alive)
    for layer, following in reversed([*pairwise(weighted)]):
        own, unread = alive[layer.name], ~_read(model, layer, following, alive)
        own[:, np.tile(unread, own.shape[1] // len(unread))] = False
    for name, left in alive.items():
        if (left != before[name]).any():
            model.arena.hold(f"{name}.theta", left)
    return sum(int(np.count_nonzero(before[name] & ~left)) for name, left in alive.items())


class LivingCopy:
    """A small copy of a network, with those of its units and weights that are left.

    All tokens stay, since they are numbered. A layer of which little is left has a list of weights (`Layer.living`),
    another one a smaller matrix, in which removed weights are held. Both are functions of the mask alone.

    Attributes
    ----------
    model : Sequential
    outputs : dict of layer name -> int array
        Which outputs of the layers with weights it has; of the last layer, all.
    """

    def __init__(self, model: Sequential) -> None:
        self._large = model
        self._mask = model.arena.mask.copy()
        self.outputs, alive = dict[str, Array](), living(model)
        for layer, following in pairwise(_weighted(model)):
            read = _read(model, layer, following, alive)
            if _is_grouped(layer):
                read[:] = True
            elif not read.any():
                read[0] = True  # a layer keeps at least one output
            self.outputs[layer.name] = np.flatnonzero(read)
        emptied = not all(weights.all() for weights in alive.values())
        listed = _is_listed if model.backend.knows_lists and emptied else None
        self.model, self._places = take(model, self.outputs, listed=listed)

    @property
    def fits(self) -> bool:
        """Whether the same weights are left of the network as when the copy was made."""
        return bool(np.array_equal(self._mask, self._large.arena.mask))

    def gather(self) -> None:
        """Take over all numbers of the network."""
        self._exchange(back=False)
        self.model.likelihood, self.model.threshold = self._large.likelihood, self._large.threshold

    def scatter(self) -> None:
        """Put all numbers back into the network."""
        self._exchange(back=True)

    def exchange(self, large: Array, small: Array, back: bool) -> None:
        """Do the same with another pair of flat arrays, laid out as the parameters of the two networks are."""
        for name, places in self._places.items():
            if name in self._large.arena.ranges:
                _move(large[self._large.arena.ranges[name]], small[self.model.arena.ranges[name]], places, back)

    def _exchange(self, back: bool) -> None:
        for name, places in self._places.items():
            for old, new in zip(arrays_of(self._large, name), arrays_of(self.model, name), strict=True):
                _move(old, new, places, back)


def _move(large: Array, small: Array, places: Array, back: bool) -> None:
    """Copy the numbers at `places` into a small array, or back."""
    if back:
        large.reshape(-1)[places.reshape(-1)] = small.reshape(-1)
    else:
        small.reshape(-1)[:] = large.reshape(-1)[places.reshape(-1)]


def _is_listed(layer: Layer, mask: Array) -> bool:
    """Whether a layer is faster on a list of the weights that are left than with a matrix."""
    if (
        not isinstance(layer, Weighted)
        or layer.needs_recurrence
        or (layer.window is not None and layer.window.stride != (1, 1))
    ):
        return False
    count = int(np.count_nonzero(mask))
    if layer.window is None:
        return LIST_COST * count < mask.size + MATRIX_COST
    return CONV_LIST_COST * count < mask.size


def _weighted(model: Sequential) -> list[Layer]:
    """Layers with weights, first to last."""
    return [layer for layer in model.layers if type(layer).alive is not Layer.alive]


def _is_grouped(layer: Layer) -> bool:
    """Whether a layer must keep its channels, and a row of its weights reads several of them."""
    return getattr(layer, "groups", 1) > 1


def _between(model: Sequential, layer: Layer, following: Layer) -> Sequence[Layer]:
    return model.layers[layer.index + 1 : following.index]


def _sources(model: Sequential, layer: Layer, following: Layer) -> Array:
    """For each row of the next layer's weights, the output of this one that it reads; all -1 if unknown.

    Of a recurrent layer, only rows that read its inputs count.
    """
    rows = _rows(model, following)
    if _is_grouped(following):
        return np.full(rows, -1)
    sources = np.arange(layer.out_shape[-1])
    for step in _between(model, layer, following):
        if type(step).take is Layer.take:  # what comes in goes out in the same place
            continue
        everything, found = np.arange(step.out_shape[-1]), np.full(step.out_shape[-1], -1)
        readers = np.zeros(len(found), int)
        for source in np.unique(sources):
            at = step.take(everything, np.flatnonzero(sources == source))
            found[at] = source
            readers[at] += 1
        sources = found if (readers == 1).all() else np.full(len(found), -1)
    return np.tile(sources, rows // len(sources))


def _rows(model: Sequential, layer: Layer) -> int:
    """Rows of a layer's weights (I, O) that read its inputs."""
    return math.prod(model.parameters[f"{layer.name}.theta"].shape[:-1]) - layer.inner_rows


def _read(model: Sequential, layer: Layer, following: Layer, alive: dict[str, Array]) -> NDArray[np.bool_]:
    """Which outputs of a layer living weights read, (O,); all of them if that is unknown.

    Those of the next layer, or, in a recurrent layer, of its own units that are read.
    """
    sources = _sources(model, layer, following)
    read = np.zeros(layer.out_shape[-1], bool)
    reads = alive[following.name][: len(sources)].any(axis=1)
    read[sources[reads] if (sources >= 0).all() else slice(None)] = True
    return also_read(alive[layer.name][-layer.inner_rows :], read) if layer.inner_rows else read


def _fold_constants(model: Sequential, layer: Layer, following: Layer, alive: dict[str, Array]) -> None:
    """Add what constant outputs of a layer contribute to the next one's bias; mark the weights that read them dead."""
    if layer.inner_rows:  # even without inputs, its units change from step to step
        return
    sources = _sources(model, layer, following)
    reads = alive[following.name][: len(sources)]
    constant = np.logical_not(alive[layer.name].any(axis=0)).reshape(-1)
    rows = np.flatnonzero((sources >= 0) & constant[sources] & reads.any(axis=1))
    if not len(rows):
        return
    values, same_everywhere = _seen(model, layer, following)
    bias = model.parameters.get(f"{following.name}.bias")
    theta = model.parameters[f"{following.name}.theta"].reshape(-1, reads.shape[1])[: len(reads)]
    foldable = rows[same_everywhere[rows]] if bias is not None else rows[(values[rows] == 0) & same_everywhere[rows]]
    if bias is not None:
        added = (values[foldable, None] * np.where(reads[foldable], theta[foldable], 0)).sum(axis=0)
        bias[: len(added)] += added.astype(bias.dtype)
    reads[foldable] = False


def _seen(model: Sequential, layer: Layer, following: Layer) -> tuple[Array, Array]:
    """What each row of the next layer's weights sees where this one gives its bias, and whether at every position."""
    backend = get_backend("numpy", model.dtype)
    bias = model.parameters.get(f"{layer.name}.bias", np.zeros(layer.out_shape[-1], model.dtype))
    x = np.array(np.broadcast_to(bias, (1, *layer.out_shape)))
    for step in _between(model, layer, following):
        x = step.forward(x, Pass(backend, "mean"))
    window = getattr(following, "window", None)
    pixels = x.reshape(-1, x.shape[-1])
    same = (pixels == pixels[0]).all(axis=0)
    if window is not None and any(window.padding):
        same &= pixels[0] == 0
    repeats = _rows(model, following) // pixels.shape[1]
    return np.tile(pixels[0], repeats), np.tile(same, repeats)
