"""The file of frames: whatever `save` cannot have written is refused, with the name of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.files.npz import read_npz, write_npz
from svd_numpy.plots.frames import NAMES, FrameRecorder

Arrays = dict[str, np.ndarray]


@pytest.fixture
def arrays(tmp_path: Path) -> Arrays:
    rng, frames = np.random.default_rng(0), FrameRecorder((2, 3))
    for epoch in (1, 2, 5):
        frames.add(epoch, rng.normal(size=(6, 4)), rng.normal(size=(6, 4)), 0.0, None if epoch == 2 else 0.1, 0.5)
    frames.save(tmp_path / "frames.npz")
    return read_npz(tmp_path / "frames.npz", NAMES)


CHANGES: list[Callable[[Arrays], tuple[str, np.ndarray]]] = [
    lambda a: ("image_shape", np.array(6)),
    lambda a: ("image_shape", np.array([2.0, 3.0])),
    lambda a: ("image_shape", np.array([3, 2])),
    lambda a: ("max_units", np.array([100])),
    lambda a: ("max_units", np.array(3)),
    lambda a: ("codes", a["codes"].astype("i8")),
    lambda a: ("codes", a["codes"][0]),
    lambda a: ("codes", a["codes"][:0]),
    lambda a: ("codes", a["codes"][:2]),
    lambda a: ("scales", a["scales"][:2]),
    lambda a: ("scales", a["scales"] * np.nan),
    lambda a: ("scales", -a["scales"]),
    lambda a: ("scales", a["scales"].astype(str)),
    lambda a: ("epochs", a["epochs"][::-1]),
    lambda a: ("epochs", a["epochs"] * 0),
    lambda a: ("epochs", a["epochs"].astype(float)),
    lambda a: ("test_errors", a["test_errors"] + np.inf),
    lambda a: ("test_errors", a["test_errors"] - 1),
    lambda a: ("sparsities", a["sparsities"] + 1),
    lambda a: ("sparsities", a["sparsities"] * np.nan),
]


@pytest.mark.parametrize("change", CHANGES)
def test_frames_that_make_no_sense_are_refused(
    tmp_path: Path, arrays: Arrays, change: Callable[[Arrays], tuple[str, np.ndarray]]
) -> None:
    path = tmp_path / "frames.npz"
    assert FrameRecorder.load(path).epochs == [1, 2, 5]
    name, value = change(arrays)
    write_npz(path, {**arrays, name: value})
    with pytest.raises(svd.SvdValueError, match=r"frames\.npz: .*delete it"):
        FrameRecorder.load(path)
