"""The reader for strangers: `net_reader.py` refuses damaged and hostile files with one error that names the file."""

from __future__ import annotations

import io
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparse_tools import inputs_of, kill, lenet_5, vgg_like

import svd_numpy as svd
from svd_numpy.files.safe_arrays import sha256
from svd_numpy.sparse import net_reader


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.npz"
    svd.compress(kill(lenet_5(), 0.3), backend="numpy").export_numpy(path)
    return path


def refused(path: Path) -> str:
    """The message of a file that is refused without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is damaged, or not a network") as caught:
            net_reader.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def write(path: Path, arrays: dict[str, Any]) -> None:
    """An .npz file with the checksum that the reader expects."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = bytes(64)
    content = file.getvalue()[:-64]
    path.write_bytes(content + sha256(content).encode())


def test_every_damage_is_noticed(exported: Path, tmp_path: Path) -> None:
    whole, path, rng = exported.read_bytes(), tmp_path / "net.npz", random.Random(0)
    for place in rng.sample(range(len(whole)), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged if place % 3 else whole[:place])
        assert "checksum" in refused(path)


def test_numpy_itself_reads_the_file(exported: Path) -> None:
    with np.load(exported, allow_pickle=False) as arrays:
        assert arrays["kinds"].tolist() == ["take", "conv", "max", "conv", "max", "dense", "dense"]
        assert set(arrays) == {name for name in arrays if name == "kinds" or name[0].isdigit()}


def set_to(name: str, at: int, value: Any) -> Any:
    def spoil(arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[at] = value

    return spoil


def put(name: str, value: Any) -> Any:
    return lambda arrays: arrays.update({name: np.array(value)})


HOSTILE: dict[str, Any] = {
    "NaN": set_to("1.values", 0, np.nan),
    "infinity": set_to("5.bias", 0, np.inf),
    "negative rows": set_to("1.rows", 0, -1),
    "rows beyond": set_to("5.rows", -1, 10**6),
    "starts that fall": set_to("5.starts", 1, 10**6),
    "starts from 1": set_to("5.starts", 0, 1),
    "starts short of the end": set_to("5.starts", -1, 1),
    "one value for all": put("5.values", np.ones(1, np.float32)),
    "one bias for all": put("5.bias", np.ones(1, np.float32)),
    "one mean for all": put("0.mean", np.ones(1, np.float32)),
    "weights of float64": lambda arrays: arrays.update({"5.values": arrays["5.values"].astype(np.float64)}),
    "negative inputs": set_to("5.inputs", 0, -1),
    "inputs beyond": set_to("5.inputs", -1, 10**6),
    "index beyond": set_to("0.index", -1, 784),
    "huge matrix": put("5.shape", [60000, 60000]),
    "huge padding": put("1.window", [[5, 5], [1, 1], [2**15, 2**15], [1, 1]]),
    "negative padding": set_to("1.window", 4, -1),
    "no stride": set_to("1.window", 2, 0),
    "huge kernel": put("2.window", [[12, 12], [1, 1], [2**11, 2**11], [1, 1]]),
    "unknown kind": put("kinds", ["take", "conv", "median", "conv", "max", "dense", "dense"]),
    "no kinds": put("kinds", 3),
    "an array missing": lambda arrays: arrays.pop("3.bias"),
    "objects": put("3.bias", [{}]),
    "text": put("3.bias", "abc"),
    "huge images": put("0.in_size", 2**40),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str, exported: Path, tmp_path: Path) -> None:
    with np.load(exported) as file:
        arrays = dict(file)
    write(tmp_path / "net.npz", arrays)
    net_reader.load(tmp_path / "net.npz")
    HOSTILE[case](arrays)
    write(tmp_path / "net.npz", arrays)
    refused(tmp_path / "net.npz")


def test_a_small_file_cannot_unpack_to_a_large_one(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("9.bias.npy", "w", force_zip64=True) as entry:
            for _ in range(65):
                entry.write(bytes(2**24))
        archive.comment = bytes(64)
    content = file.getvalue()[:-64]
    (tmp_path / "net.npz").write_bytes(content + sha256(content).encode())
    assert "more than 2**30 bytes" in refused(tmp_path / "net.npz")


def test_images_of_another_size_are_refused(exported: Path) -> None:
    predict = net_reader.load(exported)
    with pytest.raises(ValueError, match="got images of 785 numbers, expected 784"):
        predict(np.zeros((2, 785), np.float32))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    small = svd.compress(kill(vgg_like(), 0.3), backend="numpy")
    small.export_numpy(tmp_path / "net.npz")
    x = inputs_of(small, 5)
    np.testing.assert_allclose(net_reader.load(tmp_path / "net.npz")(x), small.predict(x), rtol=1e-4, atol=1e-4)


def test_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        net_reader.load(tmp_path / "none.npz")
