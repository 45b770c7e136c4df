"""Exchange with other libraries: the same outputs from our files in theirs, and from theirs in ours."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from safetensors.numpy import load_file, save_file
from sparse_tools import NETWORKS, distance, inputs_of, kill, lenet_5, lenet_300_100, vgg_like

import svd_numpy as svd
from svd_numpy.files.safe_arrays import CheckpointError
from svd_numpy.sparse import DenseOp

# ------------------------------------------------------------ PyTorch


def plain_net() -> svd.Sequential:
    """Every layer with arrays that both libraries have; batch normalisation before and after the flattening."""
    return svd.Sequential(
        svd.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), name="first"), svd.BatchNorm(6), svd.ReLU(),
        svd.MaxPool2d(2), svd.Conv2d(6, 5, 3, bias=False, dilation=(1, 2)), svd.ReLU(), svd.AvgPool2d(2, 1),
        svd.Flatten(), svd.BatchNorm(5 * 2 * 2), svd.Dropout(0.5), svd.Dense(20, 12), svd.ReLU(), svd.BatchNorm(12),
        svd.Dense(12, 4, bias=False), input_shape=(3, 20, 15),
    )  # fmt: skip


def torch_net() -> Any:
    nn = pytest.importorskip("torch", reason="PyTorch is not installed").nn
    return nn.Sequential(
        nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0)), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False, dilation=(1, 2)), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Flatten(),
        nn.BatchNorm1d(5 * 2 * 2), nn.Dropout(0.5), nn.Linear(20, 12), nn.ReLU(), nn.BatchNorm1d(12),
        nn.Linear(12, 4, bias=False),
    ).eval()  # fmt: skip


def torch_outputs(net: Any, x: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.asarray(net(torch.from_numpy(x)))


def test_a_network_of_pytorch_gives_the_same_outputs_here(tmp_path: Path) -> None:
    theirs, ours = torch_net(), plain_net()
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        if "num_batches" not in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else -0.3))
    x = inputs_of(ours, 7)
    wanted = torch_outputs(theirs, x)
    assert distance(ours.init_from(svd.from_torch_state_dict(ours, theirs.state_dict())).predict(x), wanted) < 1e-5
    arrays = {name: np.asarray(tensor) for name, tensor in theirs.state_dict().items()}
    save_file(arrays, tmp_path / "net.safetensors")
    modules = {"first": "0", "batch_norm1": "1", "conv2": "4", "batch_norm2": "8", "dense1": "10", "batch_norm3": "12",
               "dense2": "13"}  # fmt: skip
    for source in (arrays, tmp_path / "net.safetensors", str(tmp_path / "net.safetensors")):
        found = svd.from_torch_state_dict(plain_net(), source, modules)
        assert distance(plain_net().init_from(found).predict(x), wanted) < 1e-5


def test_a_network_of_ours_gives_the_same_outputs_in_pytorch(tmp_path: Path) -> None:
    theirs, ours = torch_net(), kill(plain_net(), 0.6)
    import torch

    svd.save_torch_state_dict(tmp_path / "net.safetensors", ours)
    arrays = load_file(tmp_path / "net.safetensors")
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    x = inputs_of(ours, 7)
    assert distance(torch_outputs(theirs, x), ours.predict(x)) < 1e-5


@pytest.mark.parametrize("name", [name for name in NETWORKS if "mean" not in name and name != "images"])
def test_there_and_back(name: str) -> None:
    model = kill(NETWORKS[name](), 0.3)
    arrays = svd.torch_state_dict(model)
    again = NETWORKS[name]().init_from(svd.from_torch_state_dict(model, arrays))
    again.input_mean[:] = model.input_mean
    for layer in again.variational_layers:
        layer.log_sigma2[...] = -20
    x = inputs_of(model, 5)
    assert distance(again.predict(x), model.predict(x)) < 1e-6  # running averages lose their float64


def test_layouts_element_by_element() -> None:
    model = lenet_5()
    arrays = svd.torch_state_dict(model, threshold=60)
    theta = model.parameters["conv2.theta"]
    assert arrays["3.weight"].shape == (9, 6, 3, 3)
    assert arrays["3.weight"][7, 5, 2, 1] == theta[2, 1, 5, 7]
    dense = model.parameters["dense1.theta"]  # rows: 5 x 5 pixels of 9 channels
    row, column, channel, unit = 4, 2, 8, 33
    assert arrays["7.weight"][unit, channel * 25 + row * 5 + column] == dense[(row * 5 + column) * 9 + channel, unit]
    assert arrays["9.weight"][3, 17] == model.parameters["dense2.theta"][17, 3]
    assert list(arrays) == ["0.weight", "0.bias", "3.weight", "3.bias", "7.weight", "7.bias", "9.weight", "9.bias"]


def test_weights_of_pytorch_start_an_experiment(tmp_path: Path) -> None:
    """The arrays fit everything that takes `init_from`; a variational network keeps its initial log_sigma2."""
    dense = svd.Sequential(svd.Dense(60, 30), svd.ReLU(), svd.Dense(30, 20), svd.ReLU(), svd.Dense(20, 10), seed=3)
    arrays = svd.torch_state_dict(dense)
    model = lenet_300_100(seed=4)
    model.init_from(svd.from_torch_state_dict(model, arrays))
    assert np.array_equal(model.parameters["dense2.theta"], dense.parameters["dense2.theta"])
    assert (model.parameters["dense2.log_sigma2"] == -10).all()


def test_files_keep_no_order(tmp_path: Path) -> None:
    """Modules are told apart by shape, and those of one shape by number: 2 comes before 10."""

    def net(*sizes: int) -> svd.Sequential:
        return svd.Sequential(*(svd.Dense(i, o) for i, o in pairwise(sizes)))

    model, path = net(7, 5, 5, 5, 3), tmp_path / "net.safetensors"
    arrays = svd.torch_state_dict(model)
    for module, name in (("1", "stage.2.fc"), ("2", "stage.10.fc"), ("0", "zero"), ("3", "another")):
        arrays |= {f"{name}.{kind}": arrays.pop(f"{module}.{kind}") for kind in ("weight", "bias")}
    save_file(arrays, path)
    found = svd.from_torch_state_dict(model, path)
    assert all(np.array_equal(found[name], array) for name, array in model.parameters.items())
    save_file({name.replace("stage.2", "first"): array for name, array in arrays.items()}, path)
    with pytest.raises(ValueError, match=r"modules \['first\.fc', 'stage\.10\.fc'\] all have"):
        svd.from_torch_state_dict(model, path)
    save_file(arrays, path)
    with pytest.raises(ValueError, match=r"\['another'\] belong to no layer"):
        svd.from_torch_state_dict(net(7, 5, 5, 5), path)
    with pytest.raises(ValueError, match=r"net\.safetensors: source: no module has the shapes .* 'dense4'"):
        svd.from_torch_state_dict(net(7, 5, 5, 5, 4), path)


def test_state_dicts_that_do_not_match_are_refused(tmp_path: Path) -> None:
    model = lenet_300_100()
    arrays = svd.torch_state_dict(model)
    with pytest.raises(ValueError, match=r"no module has the shapes .*\(10, 20\).* of layer 'dense3'"):
        svd.from_torch_state_dict(model, {name: a for name, a in arrays.items() if name[0] != "4"})
    with pytest.raises(ValueError, match=r"\(30, 60\).* of layer 'dense1', of those left: .*\(30, 59\)"):
        svd.from_torch_state_dict(model, arrays | {"0.weight": arrays["0.weight"][:, 1:]})
    with pytest.raises(ValueError, match=r"of layer 'dense1', of those left: .*scale"):
        svd.from_torch_state_dict(model, {name.replace("0.bias", "0.scale"): array for name, array in arrays.items()})
    with pytest.raises(ValueError, match="NaN"):
        svd.from_torch_state_dict(model, arrays | {"0.bias": np.full(30, np.nan)})
    with pytest.raises(ValueError, match="names: got 'dense9'"):
        svd.from_torch_state_dict(model, arrays, {"dense9": "0"})
    only = svd.from_torch_state_dict(model, arrays, {"dense2": "2"})
    assert sorted(only) == ["dense2.bias", "dense2.theta"]
    (tmp_path / "net.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="a pickle"):
        svd.from_torch_state_dict(model, tmp_path / "net.pt")
    (tmp_path / "net.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="cannot load"):
        svd.from_torch_state_dict(model, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"ending in \.safetensors"):
        svd.save_torch_state_dict(tmp_path / "net.pt", model)


# ------------------------------------------------------------ ONNX


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_gives_the_same_outputs(name: str, sparse: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    small = svd.compress(kill(NETWORKS[name](), 0.2), backend="numpy")
    path = tmp_path / "net.onnx"
    svd.export_onnx(small, path, sparse=sparse)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for rows in (1, 9):
        x = inputs_of(small, rows)
        (outputs,) = session.run(["outputs"], {"x": x})
        assert distance(outputs, small.predict(x)) < 1e-5


def test_sparse_initialisers_are_smaller_and_really_there(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = svd.Sequential(svd.VariationalDense(784, 300), svd.ReLU(), svd.VariationalDense(300, 10))
    small = svd.compress(kill(model, 0.02, units=1), backend="numpy")
    sizes = []
    for sparse in (False, True):
        path = tmp_path / f"{sparse}.onnx"
        svd.export_onnx(small, path, sparse=sparse)
        graph = onnx.load(path).graph
        names = {tensor.values.name for tensor in graph.sparse_initializer}
        forms = {op.name: op.weights.form for op in small.ops if isinstance(op, DenseOp)}
        assert names == ({f"{name}_theta" for name, form in forms.items() if form == "sparse"} if sparse else set())
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.3 * sizes[0]


def test_an_empty_network_in_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = lenet_300_100()
    for layer in model.variational_layers:
        layer.log_sigma2[...] = 10
    model.parameters["dense3.bias"][:] = np.arange(10)
    small = svd.compress(model, backend="numpy")
    svd.export_onnx(small, tmp_path / "net.onnx")
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"x": inputs_of(small, 3)})
    assert np.array_equal(outputs, np.tile(np.arange(10, dtype=np.float32), (3, 1)))


def test_without_onnx_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    small = svd.compress(kill(lenet_300_100(), 0.2), backend="numpy")
    with pytest.raises(ImportError, match=r"pip install svd-numpy\[export\]"):
        svd.export_onnx(small, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"ending in \.onnx"):
        svd.export_onnx(small, tmp_path / "net.bin")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------ SciPy


def test_scipy_runs_the_matrices(tmp_path: Path) -> None:
    small = svd.compress(kill(lenet_300_100(), 0.3), backend="numpy")
    paths = svd.export_csr(small, tmp_path / "csr")
    assert [path.name for path in paths] == ["dense1.npz", "dense2.npz", "dense3.npz"]
    x = inputs_of(small, 6)
    take = small.ops[0]
    y = take.apply(x)
    for path in paths:
        matrix = scipy.sparse.load_npz(path)
        assert matrix.format == "csr"
        with np.load(path, allow_pickle=False) as rest:
            y = (matrix @ y[:, rest["inputs"]].T).T + rest["bias"]
            assert set(rest) == {"data", "indices", "indptr", "shape", "format", "bias", "inputs"}
        if path != paths[-1]:
            y = np.maximum(y, 0)
    assert distance(y, small.predict(x)) < 1e-5


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_matrices_of_two_networks_never_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the disk fails, the folder holds the old export or the new one, whole."""
    old, new = (svd.compress(kill(lenet_300_100(), 0.3, seed=seed), backend="numpy") for seed in (0, 1))
    svd.export_csr(old, tmp_path / "old")
    svd.export_csr(new, tmp_path / "new")
    wanted = digests(tmp_path / "old"), digests(tmp_path / "new")
    calls = {"fsync": os.fsync, "replace": os.replace}
    for name, real in calls.items():
        for failing in range(6):
            folder, done = tmp_path / f"{name}{failing}" / "csr", 0
            svd.export_csr(old, folder)

            def fail(*args: Any, real: Any = real, failing: int = failing) -> Any:
                nonlocal done
                done += 1
                if done == failing + 1:
                    raise OSError(28, "No space left on device")
                return real(*args)

            with monkeypatch.context() as patch:
                patch.setattr(os, name, fail)
                with contextlib.suppress(OSError):
                    svd.export_csr(new, folder)
            assert digests(folder) in wanted
            svd.export_csr(new, folder)
            assert digests(folder) == wanted[1]
            assert list(folder.parent.iterdir()) == [folder]


def test_an_export_replaces_an_export_and_nothing_else(tmp_path: Path) -> None:
    small = svd.compress(lenet_300_100(), backend="numpy")
    svd.export_csr(small, tmp_path / "csr")
    svd.export_csr(svd.compress(svd.Sequential(svd.Dense(4, 3)), backend="numpy"), tmp_path / "csr")
    assert [path.name for path in (tmp_path / "csr").iterdir()] == ["dense1.npz"]
    for name, content in (("notes.txt", b"mine"), ("mine.npz", b"PK")):
        (tmp_path / "csr" / name).write_bytes(content)
        with pytest.raises(svd.SvdValueError, match=f"holds {name}"):
            svd.export_csr(small, tmp_path / "csr")
        (tmp_path / "csr" / name).unlink()
    with pytest.raises(svd.SvdValueError, match="is a file"):
        svd.export_csr(small, tmp_path / "csr" / "dense1.npz")
    twice = svd.SparseModel(
        [small.ops[0], *[replace(op, name="same") for op in small.ops[1:]]], small.likelihood, "numpy"
    )
    with pytest.raises(svd.SvdValueError, match="all different"):
        svd.export_csr(twice, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_scipy_reads_convolutions(tmp_path: Path) -> None:
    small = svd.compress(kill(vgg_like(), 0.3), backend="numpy")
    svd.export_csr(small, tmp_path)
    for op in small.ops:
        if hasattr(op, "weights"):
            matrix = scipy.sparse.load_npz(tmp_path / f"{op.name}.npz")
            assert np.array_equal(matrix.toarray(), op.weights.matrix().T)


@pytest.mark.parametrize("name", ["../dense1", "a/b", "/dense1"])
def test_no_layer_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    model = svd.Sequential(svd.Dense(4, 3), svd.ReLU(), svd.Dense(3, 2, name=name))
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        svd.export_csr(svd.compress(model, backend="numpy"), tmp_path / "csr")
    assert not list(tmp_path.iterdir())
