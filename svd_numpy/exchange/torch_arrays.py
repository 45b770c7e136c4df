"""Arrays of PyTorch networks, from whatever holds them: a .safetensors file, a module, a state dict or a checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
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
TRACKED = "num_batches_tracked"  # of a batch normalisation: how many batches its averages are over
_PARAMETRISED = ".parametrizations."  # torch.nn.utils.parametrize; the older functions use the endings below
_REPARAMETRISED = {"weight_g": "weight_norm", "weight_v": "weight_norm", "weight_u": "spectral_norm"}


def read_modules(source: Any) -> Modules:
    """Read the arrays of a network, grouped by module in the order of the source.

    Half-precision numbers (float16, bfloat16) are widened to float32; `weight_orig * weight_mask` of
    `torch.nn.utils.prune` becomes `weight`; names lose the prefixes of `DataParallel` and `torch.compile`. Of a module,
    weights under `torch.nn.utils.parametrize` are read as the module uses them. A tensor that two modules share is
    read twice, with a warning.

    Parameters
    ----------
    source : path of a .safetensors file, module, state dict, or checkpoint that holds one
    """
    if isinstance(source, str | os.PathLike):
        arrays: Mapping[Any, Any] = _read(as_path("source", source))
    else:
        arrays = state_dict_of(source)
    prefix = shared_prefix(arrays)
    modules, places = Modules(), dict[Any, str]()
    for whole, value in arrays.items():
        name = whole.removeprefix(prefix)
        module, _, kind = name.rpartition(".")
        _refuse_parametrised(name, module, kind)
        array = modules.setdefault(module, {})[kind] = _plain(name, value)
        _warn_of_tied(name, value, array, places)
    return {module: _masked(module, own) for module, own in modules.items()}


def module_of(source: Any) -> Any:
    """Return the module that a source is or holds; None if there is none."""
    held = _innermost(source)
    return held if callable(getattr(held, "named_modules", None)) else None


def state_dict_of(source: Any) -> Mapping[Any, Any]:
    """Find the state dict in a module or a checkpoint."""
    held = _innermost(source)
    if isinstance(held, Mapping):
        return held
    if not callable(getattr(held, "state_dict", None)):
        kind = type(held).__name__
        raise SvdTypeError(f"source: got a {kind}, expected the path of a .safetensors file, a module or a state dict")
    return _evaluated(held, held.state_dict())


def _innermost(source: Any) -> Any:
    """Return the module or state dict in a checkpoint; anything else is returned unchanged."""
    while isinstance(source, Mapping):
        held = (source.get(key) for key in _NESTS)
        inner = next((x for x in held if isinstance(x, Mapping) or callable(getattr(x, "state_dict", None))), None)
        if inner is None:
            break
        source = inner
    return source


def _evaluated(module: Any, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace what `torch.nn.utils.parametrize` stores of a weight by the weight itself."""
    if not any(_PARAMETRISED in name for name in arrays if isinstance(name, str)) or module_of(module) is None:
        return arrays
    found = dict(arrays)
    for name, inner in module.named_modules(remove_duplicate=False):
        for weight in getattr(inner, "parametrizations", ()):
            if inner.training:  # some parametrisations change when they are evaluated in training
                raise SvdValueError(f"source: {name}.{weight} is parametrised; call the module's .eval() first")
            prefix = f"{name}.parametrizations.{weight}.".lstrip(".")
            found = {key: array for key, array in found.items() if not key.startswith(prefix)}
            found[f"{name}.{weight}".lstrip(".")] = getattr(inner, weight)
    return found


def _refuse_parametrised(name: str, module: str, kind: str) -> None:
    if _PARAMETRISED in f".{name}":
        raise SvdValueError(
            f"source: {name} is what torch.nn.utils.parametrize stores, from which the weight itself cannot be told; "
            "pass the module instead of its state dict, or call parametrize.remove_parametrizations first"
        )
    if kind in _REPARAMETRISED:
        raise SvdValueError(
            f"source: {name} belongs to {_REPARAMETRISED[kind]}; call "
            f"torch.nn.utils.remove_{_REPARAMETRISED[kind]} on {module!r} first"
        )


def _warn_of_tied(name: str, value: Any, array: Array, places: dict[Any, str]) -> None:
    """Warn if an array lies at the place of an earlier one."""
    at = value.data_ptr() if callable(getattr(value, "data_ptr", None)) else array.ctypes.data
    tied = places.setdefault((at, array.shape), name) if array.size > 1 else name
    if tied != name:
        warnings.warn(
            f"source: {tied} and {name} are one tensor in PyTorch; here each layer gets a copy of its own, and "
            "training changes the two separately",
            stacklevel=4,
        )


def shared_prefix(names: Iterable[Any]) -> str:
    """Return the wrappers' prefix that all names share, perhaps an empty one; check that they are text."""
    names, prefix = list(names), ""
    for name in names:
        if not isinstance(name, str):
            raise SvdTypeError(f"source: got the name {name!r}, expected text such as 'fc1.weight'")
    while names:
        more = next((p for p in _WRAPPERS if all(name.startswith(prefix + p) for name in names)), None)
        if more is None:
            break
        prefix += more
    return prefix


def _plain(name: str, value: Any) -> Array:
    """Return an array or tensor as a NumPy array, halves widened to float32."""
    if callable(getattr(value, "detach", None)):
        try:
            value = value.detach().cpu()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        except (RuntimeError, TypeError) as error:
            raise SvdTypeError(f"source: {name} is a tensor that NumPy cannot hold: {error}") from error
    array = as_array(f"source: {name}", value)
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


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
