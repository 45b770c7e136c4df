"""Compare what a module of PyTorch says about itself, beyond its arrays, with the layers of a model.

Padding, strides and activations are not in a state dict. Where a module is given, they are compared by name; nothing is
imported, since attributes and names of classes suffice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svd_numpy.checks import SvdValueError
from svd_numpy.exchange.torch_arrays import module_of, shared_prefix
from svd_numpy.exchange.torch_recurrent import RECURRENT
from svd_numpy.network.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GaussianDropout,
    MaxPool2d,
    Pad2d,
    ReLU,
)
from svd_numpy.network.layers.base import Layer
from svd_numpy.network.model import Sequential

_CLASSES: tuple[tuple[type[Layer], tuple[str, ...]], ...] = (
    (Dense, ("Linear",)),
    (Conv2d, ("Conv2d",)),
    (BatchNorm, ("BatchNorm1d", "BatchNorm2d", "SyncBatchNorm")),
)
_HARMLESS = ("Identity", "Flatten", "ReLU", "Sequential", *RECURRENT)  # and all kinds of dropout and losses
_LAST = ("Softmax", "LogSoftmax")  # outputs here are logits, and the probabilities are the same
_POOLS = {"MaxPool2d": MaxPool2d, "AvgPool2d": AvgPool2d}
_WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule")
_UNORDERED = (Pad2d, Flatten, Dropout, GaussianDropout)
_PADS = {
    "ZeroPad2d": "zeros", "ReflectionPad2d": "reflect", "ReplicationPad2d": "replicate", "CircularPad2d": "circular",
}  # fmt: skip
_DIFFERENT = "so they compute different things"
_UNLESS = "or, if they compute the same nevertheless, pass its state_dict() and check=(x, outputs)"


def check_module(model: Sequential, source: Any, pairs: Mapping[str, str], whole: bool) -> None:
    """Compare a source, if it is a module or holds one, with the layers that take its arrays.

    Parameters
    ----------
    model : Sequential
    source : what `from_torch_state_dict` takes
    pairs : mapping of layer name to module name
    whole : bool
        Whether the modules without arrays, too, have to be layers of the model.

    Raises
    ------
    ValueError
        For options or kinds of modules that differ from the layers'.
    """
    of_source = module_of(source)
    if of_source is None:
        return
    prefix, inner = shared_prefix(of_source.state_dict()), dict(of_source.named_modules(remove_duplicate=False))
    for layer in model.layers:
        if layer.name in pairs:
            name = pairs[layer.name]
            if (module := inner.get(f"{prefix}{name}".rstrip("."))) is not None:  # not one of several layers in one
                _check_pair(model, layer, name, module)
    if whole:
        taken = {f"{prefix}{name}".rstrip(".") for name in pairs.values()}
        parts = {name: leaf for name, leaf in inner.items() if ".parametrizations." not in f".{name}."}
        leaves = {name: leaf for name, leaf in parts.items() if not list(leaf.children()) and name not in taken}
        for name, leaf in leaves.items():
            _check_leaf(model, name.removeprefix(prefix), leaf, last=name == list(parts)[-1])
        _check_order(model, parts, leaves | {name: inner[name] for name in taken if name in inner})


def _check_order(model: Sequential, parts: Mapping[str, Any], leaves: Mapping[str, Any]) -> None:
    """Compare the order of modules with the layers', where all containers are of PyTorch's class Sequential."""
    containers = {type(part).__name__ for name, part in parts.items() if name not in leaves}
    if containers - {"Sequential", *_WRAPPERS}:
        return
    known = {name: layer for layer, names in _CLASSES for name in names} | _POOLS | {"ReLU": ReLU}
    theirs = [known[kind] for name in parts if name in leaves for kind in _kinds(leaves[name]) & set(known)]
    ours = [next((kind for kind in known.values() if isinstance(layer, kind)), None) for layer in model.layers]
    ours = [kind for layer, kind in zip(model.layers, ours, strict=True) if kind or not isinstance(layer, _UNORDERED)]
    if None not in ours and ours != theirs:  # None is a layer of the user's own
        told = [[getattr(kind, "__name__", "") for kind in kinds] for kinds in (theirs, ours)]
        raise SvdValueError(
            f"source: its modules run as {told[0]}, the layers as {told[1]} (but for padding, dropout, flattening), "
            f"{_DIFFERENT}; make them equal"
        )


def _kinds(module: Any) -> set[str]:
    return {base.__name__ for base in type(module).__mro__}


def _check_pair(model: Sequential, layer: Layer, name: str, module: Any) -> None:
    known = next((names for kind, names in _CLASSES if isinstance(layer, kind)), None)
    if known is None:  # a layer of the user's own
        return
    if not _kinds(module) & set(known):
        raise SvdValueError(
            f"source: module {name!r} is a {type(module).__name__}, expected {' or '.join(known)} for layer "
            f"{layer.name!r}; {_UNLESS.removeprefix('or, ')}"
        )
    if isinstance(layer, Conv2d):
        _compare(layer, name, module, ("stride", "dilation", "groups"))
        _check_padding(model, layer, name, module)
    elif isinstance(layer, BatchNorm):
        _compare(layer, name, module, ("eps",))


def _check_padding(model: Sequential, layer: Conv2d, name: str, module: Any) -> None:
    """Compare the padding of a convolution with that of its layer, or of the `Pad2d` before a layer without any."""
    own = ("zeros", layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0])
    before = model.layers[layer.index - 1] if layer.index else None
    ours: list[tuple[Any, ...]] = [own]
    if isinstance(before, Pad2d) and not any(layer.padding):
        ours.append((before.mode, *before.padding))
    theirs = _edges(module)
    same = any(theirs[1:] == edges[1:] and (theirs[0] == edges[0] or not any(theirs[1:])) for edges in ours)
    if not same:
        raise SvdValueError(
            f"source: module {name!r} has padding_mode={theirs[0]!r} and pads (left, right, top, bottom) by "
            f"{theirs[1:]}, layer {layer.name!r} has mode {ours[-1][0]!r} and {ours[-1][1:]}, {_DIFFERENT}; give the "
            f"layer padding=0, and put Pad2d({theirs[1:]}, {theirs[0]!r}) before it"
        )


def _edges(module: Any) -> tuple[Any, ...]:
    """Padding of a convolution of PyTorch: mode, left, right, top, bottom."""
    if module.padding == "same":
        added = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        (top, bottom), (left, right) = ((count // 2, count - count // 2) for count in added)
    else:
        down, across = _pair(module.padding, own=())
        top, bottom, left, right = down, down, across, across
    return module.padding_mode, left, right, top, bottom


def _compare(layer: Layer, name: str, module: Any, options: tuple[str, ...]) -> None:
    for option in options:
        own, theirs = getattr(layer, option), _pair(getattr(module, option), own=getattr(layer, option))
        if theirs != own:
            raise SvdValueError(
                f"source: module {name!r} has {option}={theirs}, layer {layer.name!r} {option}={own}, {_DIFFERENT}; "
                "make them equal"
            )


def _pair(value: Any, own: Any) -> Any:
    """One number of PyTorch's stands for a pair; its words for paddings stay words."""
    if value == "valid":
        value = 0
    return (value, value) if isinstance(own, tuple) and isinstance(value, int) else value


def _check_leaf(model: Sequential, name: str, module: Any, last: bool) -> None:
    kinds = _kinds(module)
    if kinds & set(_HARMLESS) or any("Dropout" in kind or kind.endswith("Loss") for kind in kinds):
        return
    pad = next((mode for kind, mode in _PADS.items() if kind in kinds), None)
    if pad is not None:
        edges = module.padding if isinstance(module.padding, tuple) else (module.padding,) * 4
        pads = [(layer.mode, layer.padding) for layer in model.layers if isinstance(layer, Pad2d)]
        if (pad, edges) not in pads:
            raise SvdValueError(
                f"source: module {name!r} is a {type(module).__name__} of {edges}, expected one of "
                f"the model's, {pads}; put Pad2d({edges}, {pad!r}) where it is"
            )
        return
    pool = next((kind for kind in _POOLS if kind in kinds), None)
    if pool is not None:
        _check_pool(model, name, module, pool)
    elif not (last and kinds & set(_LAST)):
        raise SvdValueError(
            f"source: module {name!r} is a {type(module).__name__}, which a Sequential here does not have; change the "
            f"network, {_UNLESS}"
        )


def _check_pool(model: Sequential, name: str, module: Any, kind: str) -> None:
    stride = module.kernel_size if module.stride is None else module.stride
    theirs = tuple(_pair(value, ()) for value in (module.kernel_size, stride, module.padding))
    theirs += (not getattr(module, "count_include_pad", True) and any(theirs[2]),)
    ours: list[Any] = [layer for layer in model.layers if isinstance(layer, _POOLS[kind])]
    geometries = [(layer.kernel_size, layer.stride, layer.padding, getattr(layer, "inside", False)) for layer in ours]
    if theirs not in geometries:
        raise SvdValueError(
            f"source: module {name!r} is a {kind} with (kernel_size, stride, padding, not count_include_pad) = "
            f"{theirs}, expected one of the model's, {geometries}"
        )
    wrong = {
        "ceil_mode": module.ceil_mode,
        "dilation": getattr(module, "dilation", 1) not in (1, (1, 1)),
        "divisor_override": getattr(module, "divisor_override", None) is not None,
    }
    for option, differs in wrong.items():
        if differs:
            raise SvdValueError(
                f"source: module {name!r} has {option}={getattr(module, option)}, which {kind} here does not have, "
                f"{_DIFFERENT}; change the network, {_UNLESS}"
            )
