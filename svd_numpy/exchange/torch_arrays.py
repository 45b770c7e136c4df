"""Arrays of PyTorch networks, from whatever holds them: a .safetensors file, a module, a state dict or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, as_array, as_path
from svd_numpy.files.safe_arrays import open_regular, reading, require
from svd_numpy.kernels.backend import Array

Modules = dict[str, dict[str, Array]]

_MOST_BYTES = 2**34
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip
_NESTS = ("state_dict", "model_state_dict", "model")  # keys of checkpoints under which the state dict is usually saved
_WRAPPERS = ("module.", "_orig_mod.")  # put before all names by DataParallel and torch.compile
_IGNORED = "num_batches_tracked"


def read_modules(source: Any) -> Modules:
    """Read the arrays of a network, grouped by module in the order of the source.

    Half-precision numbers (float16, bfloat16) are widened to float32; `weight_orig * weight_mask` of
    `torch.nn.utils.prune` becomes `weight`; names lose the prefixes of `DataParallel` and `torch.compile`.

    Parameters
    ----------
    source : path of a .safetensors file, module, state dict, or checkpoint that holds one
    """
    if isinstance(source, str | os.PathLike):
        arrays: Mapping[Any, Any] = _read(as_path("source", source))
    else:
        arrays = _state_dict(source)
    modules = Modules()
    for name, array in _unwrapped(arrays).items():
        module, _, kind = name.rpartition(".")
        if kind != _IGNORED:
            modules.setdefault(module, {})[kind] = _plain(name, array)
    return {module: _masked(module, own) for module, own in modules.items()}


def _state_dict(source: Any) -> Mapping[Any, Any]:
    """Find the state dict in a module or a checkpoint."""
    if not isinstance(source, Mapping):
        if not callable(getattr(source, "state_dict", None)):
            kind = type(source).__name__
            raise SvdTypeError(
                f"source: got a {kind}, expected the path of a .safetensors file, a module or a state dict"
            )
        source = source.state_dict()
    for key in _NESTS:
        inner = source.get(key)
        if isinstance(inner, Mapping) or callable(getattr(inner, "state_dict", None)):
            return _state_dict(inner)
    return source


def _unwrapped(arrays: Mapping[Any, Any]) -> dict[str, Any]:
    """Check the names, and remove prefixes that all of them share."""
    for name in arrays:
        if not isinstance(name, str):
            raise SvdTypeError(f"source: got the name {name!r}, expected text such as 'fc1.weight'")
    found = dict(arrays)
    while found:
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): array for name, array in found.items()}
    return found


def _plain(name: str, value: Any) -> Array:
    """Return an array or tensor as a NumPy array, halves widened to float32."""
    if callable(getattr(value, "detach", None)):
        try:
            value = value.detach().cpu()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        except (RuntimeError, TypeError) as error:
            raise SvdTypeError(f"source: {name} is a tensor that NumPy cannot hold: {error}") from error
    array = as_array(f"source: {name}", value)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _masked(module: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """Multiply weights by the masks that `torch.nn.utils.prune` keeps beside them."""
    found = dict(arrays)
    for name in arrays:
        base = name.removesuffix("_orig")
        if base != name and f"{base}_mask" in arrays:
            weights, mask = found.pop(name), found.pop(f"{base}_mask")
            if weights.shape != mask.shape:
                raise SvdValueError(
                    f"source: {module}.{name} has shape {weights.shape}, but its mask {mask.shape}; expected the same"
                )
            found[base] = weights * mask
    return found


def _read(file: Path) -> dict[str, Array]:
    """Arrays of any safetensors file."""
    from safetensors import SafetensorError, deserialize

    if file.suffix in (".pt", ".pth", ".bin"):
        raise SvdValueError(
            f"source: got {file}, a pickle, which may run any code; expected .safetensors: write one with "
            "safetensors.torch.save_file(model.state_dict(), ...), or pass the state dict itself"
        )
    with reading(file), open_regular(file.resolve()) as (opened, size):
        require(size <= _MOST_BYTES, f"it has {size} bytes, more than {_MOST_BYTES}")
        try:
            entries = deserialize(opened.read())  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            raise SvdValueError(str(error)) from error
        return {name: _decoded(name, entry) for name, entry in entries}


def _decoded(name: str, entry: Mapping[str, Any]) -> Array:
    """Return the array of one entry."""
    kind, data = entry["dtype"], entry["data"]
    if kind == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        require(kind in _TYPES, f"{name} is of type {kind}, expected one of {', '.join(_TYPES)} or BF16")
        values = np.frombuffer(data, _TYPES[kind])
    return values.reshape(entry["shape"])
