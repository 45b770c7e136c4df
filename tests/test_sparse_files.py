"""Files of compact networks: read back unchanged or refused; and the reader that needs only NumPy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparse_tools import NETWORKS, distance, inputs_of, kill, lenet_5, lenet_300_100, vgg_like

import svd_numpy as svd
from svd_numpy.files.safe_arrays import CheckpointError, load_model, save_model
from svd_numpy.kernels.window import Window
from svd_numpy.sparse import ConvOp, DenseOp, PoolOp, SparseModel, Weights


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_is_the_same_network(name: str, tmp_path: Path) -> None:
    small = svd.compress(kill(NETWORKS[name](), 0.3))
    small.save(tmp_path / "net.safetensors")
    found = SparseModel.load(tmp_path / "net.safetensors")
    x = inputs_of(small, 20)
    assert np.array_equal(found.predict(x), small.predict(x))
    assert found.likelihood == small.likelihood and str(found) == str(small)
    found.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()
    plain = SparseModel.load(tmp_path / "net.safetensors", backend="numpy")
    assert distance(plain.predict(x), small.predict(x)) < 1e-5


def test_the_file_is_small(tmp_path: Path) -> None:
    model = kill(lenet_300_100(), 0.02)
    model.save(tmp_path / "model.safetensors")
    svd.compress(model).save(tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").stat().st_size < 0.2 * (tmp_path / "model.safetensors").stat().st_size


def test_kinds_of_files_are_told_apart(tmp_path: Path) -> None:
    model = kill(lenet_300_100(), 0.3)
    model.save(tmp_path / "model.safetensors")
    svd.compress(model).save(tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="not a compact network"):
        SparseModel.load(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no network that Sequential\.save wrote"):
        svd.Sequential.load(tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="cannot load"):
        SparseModel.load(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="backend"):
        SparseModel.load(tmp_path / "net.safetensors", backend="cuda")


def test_every_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    svd.compress(kill(lenet_300_100(), 0.02)).save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.choice(len(content), 150, replace=False):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :])
        with pytest.raises(CheckpointError):
            SparseModel.load(path)
        path.write_bytes(content[:at])
        with pytest.raises(CheckpointError):
            SparseModel.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError):
        SparseModel.load(path)


# ------------------------------------------------------------ hostile files: the checksum is right

Arrays, State = dict[str, np.ndarray], dict[str, Any]


def change(name: str, at: int, value: Any) -> Callable[[Arrays, State], None]:
    def spoil(arrays: Arrays, state: State) -> None:
        arrays[name].reshape(-1)[at] = value

    return spoil


def drop(name: str) -> Callable[[Arrays, State], None]:
    return lambda arrays, state: arrays.__delitem__(name)


def cast(name: str, dtype: Any) -> Callable[[Arrays, State], None]:
    return lambda arrays, state: arrays.update({name: arrays[name].astype(dtype)})


def shorten(name: str) -> Callable[[Arrays, State], None]:
    return lambda arrays, state: arrays.update({name: arrays[name][:-1]})


def put(op: int, field: str, value: Any) -> Callable[[Arrays, State], None]:
    return lambda arrays, state: state["ops"][op].update({field: value})


def window(part: int, value: Any) -> Callable[[Arrays, State], None]:
    def spoil(arrays: Arrays, state: State) -> None:
        state["ops"][1]["window"][part] = value

    return spoil


# Ops of this file: 0 input, 1 conv1, 2 max_pool1, 3 conv2, 4 max_pool2, 5 dense1, 6 dense2; weights are sparse.
HOSTILE: dict[str, Callable[[Arrays, State], None]] = {
    "input index too large": change("0.index", 0, 784),
    "input index negative": change("0.index", 0, -1),
    "input twice": change("0.index", 1, 0),
    "index of floats": cast("0.index", np.float32),
    "rows beyond the taps": change("1.rows", 0, 25),
    "rows negative": change("1.rows", 0, -5),
    "rows twice": change("3.rows", 1, 0),
    "starts fall": change("1.starts", 1, 10**6),
    "starts begin late": change("1.starts", 0, 1),
    "starts too short": shorten("1.starts"),
    "starts end late": change("1.starts", -1, 2**31 - 1),
    "no starts": drop("1.starts"),
    "no rows": drop("1.rows"),
    "no values": drop("5.values"),
    "no bias": drop("5.bias"),
    "bias too short": shorten("5.bias"),
    "weight NaN": change("5.values", 0, np.nan),
    "bias infinite": change("3.bias", 0, np.inf),
    "weights of float64": cast("5.values", np.float64),
    "dense inputs beyond": change("5.inputs", -1, 10**9),
    "dense inputs negative": change("5.inputs", 0, -1),
    "dense inputs not rising": change("5.inputs", 1, 0),
    "no ops": lambda arrays, state: state.update(ops=[]),
    "ops no list": lambda arrays, state: state.update(ops={"type": "TakeOp"}),
    "op no dict": lambda arrays, state: state.update(ops=[1, *state["ops"][1:]]),
    "ops missing": lambda arrays, state: state.__delitem__("ops"),
    "kind": lambda arrays, state: state.update(kind="network"),
    "op too few": lambda arrays, state: state["ops"].__delitem__(-1),
    "take within": lambda arrays, state: state["ops"][2].update(state["ops"][0]),
    "unknown type": put(2, "type", "Sequential"),
    "unknown field": put(2, "path", "/etc/passwd"),
    "pool kind": put(2, "kind", "median"),
    "pool beyond": put(2, "window", [24, 24, 20, [2, 2], [2, 2], [2, 2], [1, 1]]),
    "name": put(1, "name", 7),
    "relu": put(1, "relu", 1),
    "before": put(5, "before", [0, 0]),
    "absurd input": put(0, "in_shape", [2**40]),
    "absurd image": put(0, "out_shape", [2**20, 2**20, 1]),
    "negative image": put(0, "out_shape", [-28, -28, 1]),
    "other image": put(0, "out_shape", [784]),
    "absurd weights": put(5, "shape", [2**40, 2**40]),
    "negative weights": put(5, "shape", [-1, 10]),
    "absurd padding": window(5, [2**19, 2**19]),
    "more absurd padding": window(5, [2**62, 2**62]),
    "negative padding": window(5, [-1, 0]),
    "absurd kernel": window(3, [2**15, 2**15]),
    "no stride": window(4, [0, 1]),
    "dilation": window(6, [100, 1]),
    "window of floats": window(3, [5.0, 5.0]),
    "window of flags": window(4, [True, True]),
    "window of text": window(4, "11"),
    "window too short": lambda arrays, state: state["ops"][1]["window"].__delitem__(-1),
    "window sees other images": window(0, 29),
    "likelihood": lambda arrays, state: state.update(likelihood={"name": "poisson"}),
    "likelihood's std": lambda arrays, state: state.update(likelihood={"name": "gaussian", "std": -1}),
    "mean twice": lambda arrays, state: arrays.update({"0.mean": np.zeros(784, np.float32)}),
    "array left over": lambda arrays, state: arrays.update({"7.bias": np.zeros(3)}),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net.safetensors"
    small = svd.compress(kill(lenet_5(), 0.3))
    assert [op.name for op in small.ops if isinstance(op, DenseOp)] == ["dense1", "dense2"] and len(small.ops) == 7
    small.save(path)
    return path


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str, saved: Path, tmp_path: Path) -> None:
    arrays, state = load_model(saved)
    save_model(tmp_path / "net.safetensors", arrays, state)
    SparseModel.load(tmp_path / "net.safetensors")
    HOSTILE[case](arrays, state)
    save_model(tmp_path / "net.safetensors", arrays, state)
    with pytest.raises(CheckpointError, match=r"holds no network that SparseModel\.save wrote"):
        SparseModel.load(tmp_path / "net.safetensors")


def test_a_small_file_cannot_ask_for_much_memory(saved: Path, tmp_path: Path) -> None:
    """The zeros of a sparse matrix take no space in a file, nor does padding."""
    small = SparseModel.load(saved)
    take, conv, pool, dense = (small.ops[n] for n in (0, 1, 2, 5))
    assert isinstance(conv, ConvOp) and isinstance(pool, PoolOp) and isinstance(dense, DenseOp)
    wide = Weights((2**20, 2**12), np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(2**12 + 1, np.int32))
    many = replace(dense, inputs=np.arange(2**20, dtype=np.int32), weights=wide, bias=np.zeros(2**12, np.float32))
    taken = replace(take, in_shape=(2**20,), out_shape=(2**20,), index=np.arange(2**20, dtype=np.int32), mean=None)  # type: ignore[type-var]
    far = Window(28, 28, 1, (5, 5), (1, 1), (4000, 4000), (1, 1))
    for ops in ([taken, many], [take, replace(conv, window=far)]):
        with pytest.raises(ValueError, match=r"op 1 .*(too many|more padding)"):
            SparseModel(ops, small.likelihood)


# ------------------------------------------------------------ the reader for strangers


@pytest.mark.parametrize("make", [lenet_300_100, lenet_5, vgg_like, lambda: vgg_like(svd.AvgPool2d)])
def test_the_exported_network_runs_without_this_package(make: Callable[[], svd.Sequential], tmp_path: Path) -> None:
    small = svd.compress(kill(make(), 0.4))
    reader = small.export_numpy(tmp_path / "net.npz")
    assert reader == tmp_path / "net_reader.py" and len(reader.read_text().splitlines()) < 100
    x = inputs_of(small, 12, dtype="uint8" if len(small.in_shape) == 3 else "float32")
    np.save(tmp_path / "images.npy", x)
    code = (
        "import sys; sys.modules['svd_numpy'] = None; sys.path.insert(0, '.'); import json, numpy\n"
        "from net_reader import load\n"
        "print(json.dumps(load('net.npz')(numpy.load('images.npy')).tolist()))"
    )
    away = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": ""}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, **away)  # type: ignore[call-overload]
    expected = small.predict(x)
    assert distance(np.array(json.loads(done.stdout)), expected) < 1e-5
    command = [sys.executable, "net_reader.py", "net.npz", "images.npy"]
    done = subprocess.run(command, check=True, **away)  # type: ignore[call-overload]
    assert [int(line) for line in done.stdout.split()] == expected.argmax(axis=1).tolist()


def test_the_export_needs_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ending in \.npz"):
        svd.compress(lenet_300_100()).export_numpy(tmp_path / "net.npy")
    assert not list(tmp_path.iterdir())


def test_likelihoods_come_back(tmp_path: Path) -> None:
    model = svd.Sequential(svd.Dense(3, 2), likelihood=svd.Gaussian(0.5))
    svd.compress(model).save(tmp_path / "net.safetensors")
    assert asdict(SparseModel.load(tmp_path / "net.safetensors").likelihood) == {"std": 0.5}
