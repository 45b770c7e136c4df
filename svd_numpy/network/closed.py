"""What closed gates take with them: the weights that feed or read nothing but closed units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers.base import Layer


def close(layers: Sequence[Layer], alive: dict[str, Array]) -> None:
    """Mark weights dead, in place, that lie behind or before units closed by a gate.

    Parameters
    ----------
    layers : sequence of Layer
        Those of a network, in their order.
    alive : dict of layer name -> bool array (I, O)
        Which weights are alive; of all layers with weights.
    """
    for at, layer in enumerate(layers):
        closed = layer.closed()
        if closed is None or not closed.any():
            continue
        for following in layers[at + 1 :]:
            if following.name in alive:
                reads = alive[following.name]
                rows = len(reads) - following.inner_rows
                if "in" in following.axes.get("theta", ()) and rows % len(closed) == 0:
                    reads[:rows][np.tile(closed, rows // len(closed))] = False
                break
            if following.homogeneous is None:  # it makes something else of a 0
                break
        for before in reversed(layers[:at]):
            if before.name in alive:
                feeds = alive[before.name]
                if len(closed) % feeds.shape[1] == 0:  # of flattened images, a channel has many units
                    feeds[:, closed.reshape(-1, feeds.shape[1]).all(axis=0)] = False
                break
