"""One-file models: exact round trips, damage, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_tools import assert_same, disk_full, failing_at, flip, make_arrays, make_state, names

from svd_numpy.files.safe_arrays import CheckpointError, load_model, save_model


def test_model_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.safetensors"
    for seed in (0, 1):
        save_model(path, make_arrays(seed), make_state(seed))
        arrays, state = load_model(path)
        assert_same(arrays, make_arrays(seed))
        assert state == make_state(seed)
    assert names(path.parent) == ["model.safetensors"]
    save_model(tmp_path / "again.safetensors", make_arrays(1), make_state(1))
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    (tmp_path / "link.safetensors").symlink_to(path)  # the user names the file, so a link is followed
    assert_same(load_model(tmp_path / "link.safetensors")[0], make_arrays(1))


def test_model_opens_in_any_reader(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    save_model(path, make_arrays(), {"a": [1, 2]})
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["state"]) == {"a": [1, 2]}
        assert_same({name: file.get_tensor(name) for name in file.keys()}, make_arrays())  # noqa: SIM118


def test_damaged_models_never_load_wrong(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, make_arrays(), make_state(3))
    good = path.read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        flip(path, rng)
        try:
            arrays, state = load_model(path)
        except CheckpointError:
            refused += 1
        else:
            assert state == make_state(3)
            assert_same(arrays, make_arrays())
        path.write_bytes(good)
    assert refused > 290
    for content in [good[:n] for n in range(0, len(good), 7)] + [good + b"\0", b"\xff" * 8 + good[8:]]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot load"):
            load_model(path)


def test_model_refusals(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match=r"ending in \.safetensors"):
        save_model(tmp_path / "m.npz", {}, {})
    with pytest.raises(CheckpointError, match="No such file"):
        load_model(path)
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    with pytest.raises(CheckpointError, match="loop"):
        load_model(tmp_path / "loop.safetensors")
    save_file(make_arrays() | {"fortran": np.zeros(3), "strided": np.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not written by save_model"):
        load_model(path)
    save_model(path, {}, {})
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(CheckpointError, match="version '2'"):
        load_model(path)
    with path.open("r+b") as file:  # a file that claims, and on a sparse disk has, a terabyte
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="file size"):
        load_model(path)


def test_a_disk_fault_leaves_the_old_model(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for k in range(20):
        save_model(path, make_arrays(1), {"seed": 1})
        with failing_at(k, disk_full) as calls:
            try:
                save_model(path, make_arrays(2), {"seed": 2})
            except OSError as error:
                assert "m.safetensors" in str(error) and "bytes are free" in str(error)
        arrays, state = load_model(path)
        assert_same(arrays, make_arrays(state["seed"]))
        if k >= len(calls):
            break
    assert {"write", "fsync", "replace"} <= set(calls) and state["seed"] == 2
