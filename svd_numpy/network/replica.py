"""`replica`: a network that computes on the parameters of another one, with activations and gradients of its own."""

from __future__ import annotations

from svd_numpy.network.model import Sequential


def replica(model: Sequential) -> Sequential:
    """Return a network with the same layers on the same parameters, for another part of the same batch.

    It is up to date whatever happens to the model's arrays; only running averages (`Layer.state`) are its own.
    """
    listed = {layer.name: layer.living for layer in model.layers if layer.living is not None}
    new = Sequential.from_config(model.config(), model.backend.name, model.dtype, listed)
    new.arena.params, new.arena.views, new.parameters = model.arena.params, model.arena.views, model.parameters
    new.input_mean = model.input_mean
    for layer in new.layers:
        layer.bind(model.arena.views, new.arena.grad_views)
    return new
