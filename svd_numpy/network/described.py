"""Do the arrays of a file belong to the network that it describes? Asked before anything of that size is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_count
from svd_numpy.kernels.backend import Array
from svd_numpy.network.core import inner_shape
from svd_numpy.network.layers import Pad2d, layer_from_config
from svd_numpy.network.layers.base import OWN, Layer

MAX_PLACES = 2**26  # numbers per example in all activations together, with padding


class _NoDraws(np.random.Generator):
    """Stands for a generator where only the shapes of parameters matter: draws a single 0, which is broadcast."""

    def standard_normal(self, *args: Any, **kwargs: Any) -> Any:
        """Return one 0."""
        return np.zeros(1)


def check_described(config: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Compare the network that `Sequential.config` describes with the arrays that are there.

    No weights are drawn, and nothing is allocated but the layers' small objects.

    Raises
    ------
    SvdValueError, TypeError, KeyError
        If a name or shape differs, or if the activations of one example would exceed `MAX_PLACES` numbers.
    """
    layers = [layer_from_config(layer) for layer in config["layers"]]
    shape = tuple(check_count("input_shape", size) for size in config["input_shape"])
    shape = inner_shape(shape, config.get("input_columns"))
    names = [layer.name for layer in layers]
    if not all(names) or len(set(names)) < len(names):
        raise SvdValueError(f"layers: got the names {names}, expected all different")
    shapes: dict[str, tuple[int, ...]] = {"input_mean": (math.prod(shape),)}
    places = 0
    for layer in layers:
        seen = math.prod(shape)
        shape, specs = layer.build(shape, _generator(layer))
        places += math.prod(shape) if isinstance(layer, Pad2d) else 0
        shapes |= {name: spec.shape for spec in specs for name in spec.names}
        window = getattr(layer, "window", None)
        places += math.prod(window.padded) * window.channels if window is not None else seen
        if places > MAX_PLACES:
            raise SvdValueError(
                f"layer {layer.name!r}: {places} activations per example so far, padding included, expected at most "
                f"{MAX_PLACES}"
            )
    for name, wanted in shapes.items():
        if name not in arrays or arrays[name].shape != wanted:
            got = arrays[name].shape if name in arrays else "no such array"
            raise SvdValueError(f"{name}: got {got}, expected shape {wanted}")


def _generator(layer: Layer) -> np.random.Generator:
    """What `build` gets: layers from outside this package may draw as they like."""
    bits = np.random.PCG64(0)
    return _NoDraws(bits) if type(layer).__module__.startswith(OWN) else np.random.Generator(bits)
