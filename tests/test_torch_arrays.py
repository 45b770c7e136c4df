"""State dicts of PyTorch in all the forms that people have them in, without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import svd_numpy as svd
from svd_numpy.files.safe_arrays import CheckpointError

State = dict[str, np.ndarray]


def two_alike() -> svd.Sequential:
    return svd.Sequential(svd.VariationalDense(6, 6), svd.ReLU(), svd.VariationalDense(6, 6), backend="numpy")


def linear(*modules: str, size: int = 6) -> State:
    rng, found = np.random.default_rng(0), State()
    for module in modules:
        found[f"{module}.weight"] = rng.normal(size=(size, size)).astype(np.float32)
        found[f"{module}.bias"] = rng.normal(size=size).astype(np.float32)
    return found


def forms(state: State, folder: Path) -> list[Any]:
    """The same network as a mapping and as a file."""
    save_file(state, folder / "net.safetensors")
    return [state, folder / "net.safetensors", str(folder / "net.safetensors")]


# ---- which module is which layer ----


def test_numbers_in_names_tell_the_order_and_declaration_does_not(tmp_path: Path) -> None:
    state = linear("fc2", "fc1")  # declared in this order, but fc1 runs first
    for source in forms(state, tmp_path):
        found = svd.from_torch_state_dict(two_alike(), source)
        np.testing.assert_array_equal(found["dense1.theta"], state["fc1.weight"].T)
        np.testing.assert_array_equal(found["dense2.theta"], state["fc2.weight"].T)


def test_modules_with_the_names_of_layers_belong_to_them(tmp_path: Path) -> None:
    layers = svd.VariationalDense(6, 6, name="outer"), svd.ReLU(), svd.VariationalDense(6, 6, name="inner")
    model, state = svd.Sequential(*layers, backend="numpy"), linear("inner", "outer")
    for source in forms(state, tmp_path):
        found = svd.from_torch_state_dict(model, source)
        np.testing.assert_array_equal(found["outer.bias"], state["outer.bias"])


def test_an_order_that_names_do_not_tell_is_refused_with_the_names_to_give(tmp_path: Path) -> None:
    state = linear("hidden", "head")
    for source in forms(state, tmp_path)[:1]:
        with pytest.raises(svd.SvdValueError, match=r"names=\{'dense1': 'hidden', 'dense2': 'head'\}"):
            svd.from_torch_state_dict(two_alike(), source)
    for source in forms(state, tmp_path):
        with pytest.raises(svd.SvdValueError, match="do not tell"):
            svd.from_torch_state_dict(two_alike(), source)
        found = svd.from_torch_state_dict(two_alike(), source, {"dense1": "head", "dense2": "hidden"})
        np.testing.assert_array_equal(found["dense1.bias"], state["head.bias"])


# ---- what holds the arrays ----


class Module:
    """What counts of a torch.nn.Module."""

    def __init__(self, state: State) -> None:
        self._state = state

    def state_dict(self) -> State:
        return self._state


class Tensor:
    """What counts of a torch.Tensor that needs a gradient: it becomes an array only when detached, on the CPU."""

    def __init__(self, array: np.ndarray, dtype: str = "torch.float32", ready: bool = False) -> None:
        self.array, self.dtype, self.ready = array, dtype, ready

    def detach(self) -> Tensor:
        return Tensor(self.array, self.dtype, True)

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(self.array, "torch.float32", self.ready)

    def numpy(self) -> np.ndarray:
        if not self.ready or self.dtype != "torch.float32":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@pytest.mark.parametrize(
    "wrap",
    [
        Module,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {}}},
        lambda state: {"model": Module(state)},
        lambda state: {f"module.{name}": array for name, array in state.items()},
        lambda state: {f"_orig_mod.module.{name}": array for name, array in state.items()},
        lambda state: {name: Tensor(array) for name, array in state.items()},
        lambda state: {name: Tensor(array, "torch.bfloat16") for name, array in state.items()},
        lambda state: {**state, "fc1.num_batches_tracked": np.array(3)},
    ],
)
def test_whatever_holds_a_state_dict_is_taken(wrap: Any) -> None:
    state = linear("fc1", "fc2")
    found = svd.from_torch_state_dict(two_alike(), wrap(state))
    np.testing.assert_array_equal(found["dense1.theta"], state["fc1.weight"].T)


@pytest.mark.parametrize("source", [None, 3, [("fc1.weight", np.zeros((6, 6)))], {3: np.zeros(3)}])
def test_what_holds_no_state_dict_is_refused(source: Any) -> None:
    with pytest.raises(svd.SvdTypeError, match="source: got"):
        svd.from_torch_state_dict(two_alike(), source)


def test_pruned_weights_are_weights_times_mask(tmp_path: Path) -> None:
    state = linear("fc1", "fc2")
    weights, mask = state.pop("fc1.weight"), (np.arange(36).reshape(6, 6) % 2).astype(np.float32)
    for source in forms({**state, "fc1.weight_orig": weights, "fc1.weight_mask": mask}, tmp_path):
        found = svd.from_torch_state_dict(two_alike(), source)
        np.testing.assert_array_equal(found["dense1.theta"], (weights * mask).T)
    with pytest.raises(svd.SvdValueError, match=r"fc1\.weight_orig has shape \(6, 6\), but its mask \(6,\)"):
        svd.from_torch_state_dict(two_alike(), {**state, "fc1.weight_orig": weights, "fc1.weight_mask": mask[0]})


# ---- half precision ----


def save_bfloat16(path: Path, state: State) -> None:
    """A file as `safetensors.torch` writes it for bfloat16 tensors."""
    header, data = {}, b""
    for name, array in state.items():
        upper = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [len(data), len(data) + len(upper)]}
        data += upper
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_halves_are_widened(tmp_path: Path) -> None:
    state, path = linear("fc1", "fc2"), tmp_path / "net.safetensors"
    save_bfloat16(path, state)
    found = svd.from_torch_state_dict(two_alike(), path)["dense1.theta"]
    assert found.dtype == np.float32
    expected = (state["fc1.weight"].view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(found, expected.T)
    for source in forms({name: array.astype(np.float16) for name, array in state.items()}, tmp_path):
        found = svd.from_torch_state_dict(two_alike(), source)["dense1.theta"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, state["fc1.weight"].astype(np.float16).T)


def test_halves_that_overflowed_are_refused_by_name_and_file(tmp_path: Path) -> None:
    state = {name: array.astype(np.float16) for name, array in linear("fc1", "fc2").items()}
    state["fc2.weight"][3, 4] = np.inf
    for source in forms(state, tmp_path):
        with pytest.raises(svd.SvdValueError, match=r"fc2\.weight.* infinity") as caught:
            svd.from_torch_state_dict(two_alike(), source)
        assert isinstance(source, dict) or str(source) in str(caught.value)


def test_pytorch_gets_float32() -> None:
    model = svd.Sequential(svd.Dense(4, 3), svd.BatchNorm(3), backend="numpy", dtype="float64")
    assert {array.dtype for array in svd.torch_state_dict(model).values()} == {np.dtype(np.float32)}


# ---- files ----


def test_every_refusal_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    good = linear("fc1", "fc2")
    for bad in (
        {**good, "fc1.bias": np.full(6, np.nan, np.float32)},
        {**good, "fc1.bias": np.zeros(7, np.float32)},
        {**good, "fc1.more": np.zeros(7, np.float32)},
        {**good, "fc1.weight": np.zeros((6, 6), bool)},
        linear("fc1", "fc2", "fc3"),
        linear("fc1"),
    ):
        save_file(bad, path)
        with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=r"net\.safetensors"):
            svd.from_torch_state_dict(two_alike(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        svd.from_torch_state_dict(two_alike(), path)
    with pytest.raises(svd.SvdValueError, match=r"net\.pth, a pickle"):
        svd.from_torch_state_dict(two_alike(), tmp_path / "net.pth")


def test_real_modules_of_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch.nn.utils import prune

    net = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
    prune.l1_unstructured(net[0], "weight", 0.5)
    x = torch.ones(1, 6)
    for source in (net, net.state_dict(), {"state_dict": net.state_dict()}):
        model = two_alike()
        model.init_from(svd.from_torch_state_dict(model, source))
        plain = svd.sparsify(model, 60)
        np.testing.assert_allclose(plain.predict(x.numpy()), net(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    svd.from_torch_state_dict(two_alike(), net.bfloat16())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself
def test_real_wrappers_and_precisions(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import save_file as save_tensors

    net = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
    wrapped = torch.nn.DataParallel(net)
    for source in (wrapped, wrapped.state_dict(), torch.compile(net), {"epoch": 3, "model": torch.compile(net)}):
        found = svd.from_torch_state_dict(two_alike(), source)
        np.testing.assert_array_equal(found["dense2.theta"], net[2].weight.detach().numpy().T)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        net.to(dtype)
        save_tensors(net.state_dict(), tmp_path / "net.safetensors")
        for source in (net, net.state_dict(), tmp_path / "net.safetensors"):
            found = svd.from_torch_state_dict(two_alike(), source)
            np.testing.assert_array_equal(found["dense2.theta"], net[2].weight.detach().double().numpy().T)
