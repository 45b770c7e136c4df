"""Arrays, faults and damage for the tests of checkpoints and model files."""

import builtins
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Arrays = dict[str, np.ndarray]


def make_arrays(seed: int = 0, n: int = 5) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "theta": rng.standard_normal((n, 3)).astype(np.float32),
        "fortran": np.asfortranarray(rng.standard_normal((2, 3, 4))),
        "strided": np.arange(10, dtype=np.int64)[::-2],
        "bytes": rng.integers(0, 256, 7, dtype=np.uint8),
        "mask": rng.random((3, 2)) < 0.5,
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(-0.0),
        "special": np.array([np.nan, np.inf, -np.inf, 5e-324, -0.0]),
    }


def make_state(step: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
        "epoch": step,
        "lr": 0.1 + 0.2,
        "tiny": -0.0,
        "none": None,
        "on": True,
        "é\ud800": [1, [2.5, "x"]],
    } | {"rng": rng.bit_generator.state}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def failing_at(k: int, fail: Callable[[str], None]) -> Iterator[list[str]]:
    """Call `fail` instead of the k-th call that changes the disk; gives the list of calls made."""
    calls: list[str] = []
    originals = {name: getattr(os, name) for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir")}

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == k:
                fail(name)
            return original(*args, **kwargs)

        return call

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("xwa"):
            return real_open(file, mode, *args, **kwargs)
        return Torn(counted("open", real_open)(file, mode, *args, **kwargs), counted("write", lambda: None))

    real_open = builtins.open
    with pytest.MonkeyPatch.context() as patch:
        for name, original in originals.items():
            patch.setattr(os, name, counted(name, original))
        patch.setattr(builtins, "open", opened)
        yield calls


class Torn:
    """A file whose write stores half of the data before it may fail."""

    def __init__(self, stream: Any, before_rest: Callable[[], Any]) -> None:
        self._stream, self._before_rest = stream, before_rest

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        self._stream.write(data[:half])
        self._stream.flush()
        self._before_rest()
        self._stream.write(data[half:])
        return len(data)


def disk_full(_: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
