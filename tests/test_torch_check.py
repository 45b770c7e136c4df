"""Weights that load but would answer differently are refused: by the outputs, and by what a module says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.backend import Array

State = dict[str, Array]


def image_net(**options: Any) -> svd.Sequential:
    layers = svd.VariationalConv2d(1, 4, 3, padding=1), svd.ReLU(), svd.AvgPool2d(3, 2, padding=1), svd.Flatten()
    return svd.Sequential(*layers, svd.Dense(4 * 16, 5), input_shape=(1, 8, 8), backend="numpy", **options)


def image_state() -> State:
    rng = np.random.default_rng(0)
    shapes = {"0.weight": (4, 1, 3, 3), "0.bias": (4,), "4.weight": (5, 64), "4.bias": (5,)}
    return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def images() -> Array:
    return np.random.default_rng(1).normal(size=(6, 1, 8, 8)).astype(np.float32)


def by_hand(
    state: State,
    x: Array,
    mode: str = "constant",
    include: bool = True,
    activation: Callable[[Array], Array] | None = None,
) -> Array:
    """What PyTorch computes, channels first, from the definitions."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode=mode)  # type: ignore[call-overload]
    weight, y = state["0.weight"], np.zeros((len(x), 4, 8, 8))
    for row in range(8):
        for column in range(8):
            seen = padded[:, :, row : row + 3, column : column + 3]
            y[:, :, row, column] = np.einsum("bcij,ocij->bo", seen, weight) + state["0.bias"]
    y = np.maximum(y, 0) if activation is None else activation(y)
    pooled = np.zeros((len(x), 4, 4, 4))
    for row in range(4):
        for column in range(4):
            seen = y[:, :, max(2 * row - 1, 0) : 2 * row + 2, max(2 * column - 1, 0) : 2 * column + 2]
            pooled[:, :, row, column] = seen.sum(axis=(2, 3)) / (9 if include else seen[0, 0].size)
    return pooled.reshape(len(x), -1) @ state["4.weight"].T + state["4.bias"]


# ------------------------------------------------------------ by their outputs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_outputs_pass_whatever_is_pruned_or_sampled(dtype: str) -> None:
    state, x = image_state(), images()
    model = image_net(dtype=dtype)
    before = {name: array.copy() for name, array in model.arrays().items()}
    for layer in model.variational_layers:
        layer.log_sigma2[...] = before[f"{layer.name}.log_sigma2"][...] = 10  # all weights would be pruned
    found = svd.from_torch_state_dict(model, state, check=(x, by_hand(state, x).astype(np.float32)))
    np.testing.assert_array_equal(found["conv1.theta"][2, 1, 0, 3], state["0.weight"][3, 0, 2, 1])
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "wrap"}, "padding_mode='circular'"),
        ({"mode": "reflect"}, "'reflect'"),
        ({"include": False}, "count_include_pad=False"),
        ({"activation": np.tanh}, "another activation"),
    ],
)
def test_other_formulas_with_the_same_arrays_are_refused(options: Any, reason: str) -> None:
    state, x = image_state(), images()
    wrong, right = by_hand(state, x, **options), by_hand(state, x)
    with pytest.raises(SvdValueError, match="check: with these weights") as caught:
        svd.from_torch_state_dict(image_net(), state, check=(x, wrong))
    at = np.unravel_index(np.abs(wrong - right).argmax(), wrong.shape)
    assert reason in str(caught.value)
    assert f"is {right[at]:.4g}"[:-1] in str(caught.value) and f"PyTorch's is {wrong[at]:.6g}" in str(caught.value)


def softmax(outputs: Array) -> Array:
    return np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (softmax, "probabilities; give the logits"),
        (lambda outputs: np.log(softmax(outputs)), "log-probabilities; give the logits"),
        (lambda outputs: np.maximum(outputs, 0), "ends with a ReLU"),
    ],
)
def test_a_reason_that_explains_the_outputs_is_named(change: Callable[[Array], Array], reason: str) -> None:
    state, x = image_state(), images()
    with pytest.raises(SvdValueError, match=reason):
        svd.from_torch_state_dict(image_net(), state, check=(x, change(by_hand(state, x))))


def test_a_mean_of_each_channel_is_named() -> None:
    mean = np.arange(24).reshape(2, 3, 4) / 5.0
    model = svd.Sequential(svd.Flatten(), svd.Dense(24, 3), input_shape=(2, 3, 4), input_mean=mean, backend="numpy")
    rng = np.random.default_rng(0)
    state, x = {"1.weight": rng.normal(size=(3, 24)), "1.bias": np.zeros(3)}, rng.normal(size=(5, 2, 3, 4))
    svd.from_torch_state_dict(model, state, check=(x, (x - mean).reshape(5, -1) @ state["1.weight"].T))
    with pytest.raises(SvdValueError, match="without the model's input_mean"):
        svd.from_torch_state_dict(model, state, check=(x, x.reshape(5, -1) @ state["1.weight"].T))


def test_inputs_of_another_scale_are_named() -> None:
    state, x = image_state(), images()
    model = image_net(input_mean=np.full((1, 8, 8), 0.5))
    with pytest.raises(SvdValueError, match="without the model's input_mean"):
        svd.from_torch_state_dict(model, state, check=(x, by_hand(state, x)))
    svd.from_torch_state_dict(model, state, check=(x, by_hand(state, x - 0.5)))
    pixels = np.random.default_rng(2).integers(0, 256, (3, 1, 8, 8)).astype(np.uint8)
    with pytest.raises(SvdValueError, match="uint8 pixels are not divided by 255"):
        svd.from_torch_state_dict(image_net(), state, check=(pixels, by_hand(state, pixels.astype(np.float64))))


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (np.zeros((6, 1, 8, 8)), "expected a pair"),
        ((images()[:2], np.zeros((6, 5))), r"outputs: got shape \(6, 5\), expected \(2, 5\)"),
        ((images()[:, :, :7], np.zeros((6, 5))), "check: x: got shape"),
        ((images()[:0], np.zeros((0, 5))), "check: x: got no example"),
        ((images(), np.full((6, 5), np.nan)), "check: outputs: got NaN"),
        ((images(), np.zeros((6, 5), np.float16)), "half precision"),
    ],
)
def test_a_check_that_cannot_be_made_is_refused(check: Any, words: str) -> None:
    with pytest.raises((SvdValueError, SvdTypeError), match=words):
        svd.from_torch_state_dict(image_net(), image_state(), check=check)


# ------------------------------------------------------------ by what a module says


class Module:
    """What counts of a torch.nn.Module; a class for each kind is made below."""

    def __init__(self, **options: Any) -> None:
        vars(self).update(options)

    def children(self) -> list[Module]:
        return []


def kind(name: str, **options: Any) -> Module:
    return type(name, (Module,), {})(**options)


def conv(**options: Any) -> Module:
    usual = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
    return kind("Conv2d", **usual | options)


def pool(**options: Any) -> Module:
    usual = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": False, "count_include_pad": True}
    return kind("AvgPool2d", **usual | options)


class Net(Module):
    """The modules of `image_net`, with some replaced."""

    def __init__(self, **changes: Module) -> None:
        usual = {"0": conv(), "1": kind("ReLU"), "2": pool(), "3": kind("Flatten"), "4": kind("Linear")}
        self.modules = usual | {name.removeprefix("m"): module for name, module in changes.items()}

    def children(self) -> list[Module]:
        return list(self.modules.values())

    def named_modules(self, remove_duplicate: bool = True) -> list[tuple[str, Module]]:
        return [("", self), *self.modules.items()]

    def state_dict(self) -> State:
        return image_state()


def test_a_module_with_the_layers_of_the_model_passes() -> None:
    svd.from_torch_state_dict(image_net(), Net())
    svd.from_torch_state_dict(image_net(), {"model": Net(m1=kind("Dropout2d"), m5=kind("Softmax"))})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"m0": conv(padding_mode="circular")}, r"put Pad2d\(\(1, 1, 1, 1\), 'circular'\) before it"),
        ({"m0": conv(stride=(2, 2))}, r"'0' has stride=\(2, 2\), layer 'conv1' stride=\(1, 1\)"),
        ({"m0": conv(padding=(0, 0))}, "padding"),
        ({"m0": kind("ConvTranspose2d")}, "'0' is a ConvTranspose2d, expected Conv2d for layer 'conv1'"),
        ({"m1": kind("Tanh")}, "'1' is a Tanh, which a Sequential here does not have"),
        ({"m1": kind("Softmax")}, "'1' is a Softmax"),
        ({"m2": pool(count_include_pad=False)}, r"'2' is a AvgPool2d with .*True\), expected one of .*False\)"),
        ({"m2": pool(ceil_mode=True)}, "'2' has ceil_mode=True"),
        ({"m2": pool(stride=None)}, r"'2' is a AvgPool2d with .*\(\(3, 3\), \(3, 3\), \(1, 1\), False\)"),
        ({"m4": kind("Embedding")}, "'4' is a Embedding, expected Linear"),
    ],
)
def test_options_that_a_state_dict_does_not_hold_are_compared(changes: Any, words: str) -> None:
    for source in (Net(**changes), {"model": Net(**changes)}):
        with pytest.raises(SvdValueError, match=words):
            svd.from_torch_state_dict(image_net(), source)


class Sequential(Net):
    """Runs its modules in their order, as PyTorch's class of this name does."""


def test_the_order_of_modules_is_compared_where_it_is_known() -> None:
    svd.from_torch_state_dict(image_net(), Sequential(m5=kind("Dropout")))
    for changes, words in (
        ({"m1": kind("Identity")}, r"run as \['Conv2d', 'AvgPool2d', 'Dense'\], the layers as \['Conv2d', 'ReLU'"),
        ({"m5": kind("ReLU")}, r"'Dense', 'ReLU'\], the layers"),
    ):
        svd.from_torch_state_dict(image_net(), Net(**changes))  # which may run its modules in any way
        for source in (Sequential(**changes), {"state_dict": None, "model": Sequential(**changes)}):
            with pytest.raises(SvdValueError, match=words):
                svd.from_torch_state_dict(image_net(), source)


def test_with_names_only_the_named_modules_are_compared() -> None:
    names = {"conv1": "0", "dense1": "4"}
    svd.from_torch_state_dict(image_net(), Net(m1=kind("Tanh")), names)
    with pytest.raises(SvdValueError, match="circular"):
        svd.from_torch_state_dict(image_net(), Net(m0=conv(padding_mode="circular")), names)


# ------------------------------------------------------------ shared, quantised, reparametrised


def two_alike() -> svd.Sequential:
    return svd.Sequential(svd.Dense(6, 6), svd.ReLU(), svd.Dense(6, 6), backend="numpy")


def two_states() -> State:
    rng = np.random.default_rng(0)
    return {
        f"{module}.{name}": rng.normal(size=shape)
        for module in "02"
        for name, shape in (("weight", (6, 6)), ("bias", 6))
    }


def test_a_shared_tensor_is_copied_with_a_warning() -> None:
    state = two_states()
    state["2.weight"] = state["0.weight"]
    with pytest.warns(UserWarning, match=r"0\.weight and 2\.weight are one tensor"):
        found = svd.from_torch_state_dict(two_alike(), state)
    np.testing.assert_array_equal(found["dense1.theta"], found["dense2.theta"])
    assert not np.shares_memory(found["dense1.theta"], found["dense2.theta"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("0.weight", np.ones((6, 6), np.int8), "is of int8, expected floats"),
        ("0.weight_g", np.ones((6, 1)), "remove_weight_norm"),
        ("0.weight_u", np.ones(6), "remove_spectral_norm"),
        ("0.parametrizations.weight.original0", np.ones((6, 6)), "remove_parametrizations"),
        ("parametrizations.weight.original", np.ones((6, 6)), "remove_parametrizations"),
    ],
)
def test_what_is_not_the_weight_itself_is_refused_by_name(name: str, value: Array, words: str) -> None:
    with pytest.raises((SvdValueError, SvdTypeError), match=words):
        svd.from_torch_state_dict(two_alike(), two_states() | {name: value})


def test_bfloat16_of_numpy_is_widened() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    state = two_states()
    found = svd.from_torch_state_dict(two_alike(), {name: array.astype(bfloat16) for name, array in state.items()})
    assert found["dense1.theta"].dtype == np.float32
    np.testing.assert_allclose(found["dense1.theta"], state["0.weight"].T, rtol=2**-8)


# ------------------------------------------------------------ real modules


def test_real_modules_with_parametrised_weights_and_wrappers() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn, x = torch.nn, images()

    def net(**options: Any) -> Any:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, **options), nn.ReLU(), nn.AvgPool2d(3, 2, padding=1), nn.Flatten(),
            nn.Linear(64, 5),
        ).eval()  # fmt: skip

    def outputs(module: Any) -> Array:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x)))

    plain, normed = net(), net()
    nn.utils.parametrizations.weight_norm(normed[4])
    nn.utils.parametrizations.orthogonal(normed[0])
    normed.eval()
    for module in (plain, normed, nn.DataParallel(normed)):
        svd.from_torch_state_dict(image_net(), module, check=(x, outputs(module)))
    with pytest.raises(SvdValueError, match=r"\.eval\(\) first"):
        svd.from_torch_state_dict(image_net(), normed.train())
    with pytest.raises(SvdValueError, match="pass the module"):
        svd.from_torch_state_dict(image_net(), normed.state_dict())
    circular = net(padding_mode="circular")
    with pytest.raises(SvdValueError, match="circular"):
        svd.from_torch_state_dict(image_net(), circular)
    with pytest.raises(SvdValueError, match="check: with these weights"):
        svd.from_torch_state_dict(image_net(), circular.state_dict(), check=(x, outputs(circular)))
