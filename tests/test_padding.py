"""Padding: of its own layer in every mode, the same in training, compact networks and other libraries; and "same"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sparse_tools import NETWORKS, distance, inputs_of, kill

import svd_numpy as svd
from svd_numpy.files.safe_arrays import CheckpointError
from svd_numpy.kernels.padding import MODES, Padding
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.sparse import PadOp, SparseModel

pytest.importorskip("numba")
from svd_numpy.kernels.cpu.backend import NumbaBackend

Array = NDArray[Any]
FAST, PLAIN = NumbaBackend(), ReferenceBackend(np.float64)
IN_NUMPY = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
PADDINGS = [(4, 5, (0, 0, 0, 0)), (4, 5, (3, 2, 1, 4)), (2, 7, (1, 0, 0, 6)), (1, 1, (0, 0, 0, 0))]


def padded(backend: Any, padding: Padding, images: int, channels: int) -> tuple[Array, Array]:
    """Run forward and backward into memory full of NaN."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((images, padding.height, padding.width, channels)).astype(backend.dtype)
    dy = rng.standard_normal((images, *padding.out, channels)).astype(backend.dtype)
    y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan)
    backend.pad_forward(x, padding, y)
    backend.pad_backward(dy, padding, dx)
    return y, dx


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("geometry", PADDINGS)
def test_padding_is_that_of_numpy_and_backward_its_transpose(geometry: Any, mode: str, threads: int) -> None:
    padding = Padding(*geometry, mode)
    height, width, (top, bottom, left, right) = geometry
    for channels in (1, 21):
        fast, plain = padded(FAST, padding, 3, channels), padded(PLAIN, padding, 3, channels)
        for found, wanted in zip(fast, plain, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((3, height, width, channels))
        dy = rng.standard_normal(plain[0].shape)
        sides: Any = ((0, 0), (top, bottom), (left, right), (0, 0))
        np.testing.assert_array_equal(plain[0], np.pad(x, sides, mode=IN_NUMPY[mode]))  # type: ignore[call-overload]
        assert (dy * plain[0]).sum() == pytest.approx((plain[1] * x).sum(), rel=1e-12)


def net(mode: str, **options: Any) -> svd.Sequential:
    """Paddings first, after dead filters, before a ReLU, before a pooling, before a padded convolution."""
    layers = (
        svd.Pad2d(2, mode), svd.VariationalConv2d(2, 6, 3), svd.ReLU(), svd.Pad2d((1, 2, 0, 3), mode), svd.ReLU(),
        svd.VariationalConv2d(6, 8, 3, padding="same", bias=False), svd.BatchNorm(8), svd.Pad2d(1, mode), svd.ReLU(),
        svd.MaxPool2d(3, 2, padding=1), svd.Pad2d((0, 1, 1, 0), mode), svd.VariationalConv2d(8, 5, 2, padding=1),
        svd.Flatten(), svd.Dense(405, 4),
    )  # fmt: skip
    return svd.Sequential(*layers, input_shape=(2, 7, 7), **options)


@pytest.mark.parametrize("mode", MODES)
def test_every_gradient_of_a_network(mode: str) -> None:
    model = net(mode, backend="numpy", dtype="float64")
    assert svd.gradcheck(model, inputs_of(model, 5, dtype="float64"), np.arange(5) % 4, samples=6).ok


@pytest.mark.parametrize("mode", [*MODES, "means inside"])
def test_a_compact_network_pads_in_every_form(mode: str, tmp_path: Path) -> None:
    model = kill(net(mode, backend="numpy") if mode in MODES else NETWORKS[mode](), 0.3)
    x = inputs_of(model, 9)
    wanted = model.predict(x)
    model.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(
        svd.Sequential.load(tmp_path / "net.safetensors", model.backend.name).predict(x), wanted
    )
    for backend in ("numpy", "numba"):
        small = svd.compress(model, backend=backend)
        assert distance(small.predict(x), wanted) < 1e-5
        assert distance(small.predict(x[:1]), wanted[:1]) < 1e-5
    assert f"padding, {mode}" in str(small) or "avg_inside pooling" in str(small)
    small.save(tmp_path / "small.safetensors")
    for other in (svd.SparseModel.load(tmp_path / "small.safetensors"), svd.unpack(svd.pack(small))):
        np.testing.assert_array_equal(other.predict(x), small.predict(x))
    small.export_numpy(tmp_path / "small.npz")
    space: dict[str, Any] = {"__name__": "net_reader"}
    exec((tmp_path / "net_reader.py").read_text(), space)
    assert distance(space["load"](tmp_path / "small.npz")(x), wanted) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_onnxruntime_pads_alike(mode: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    small = svd.compress(kill(net(mode, backend="numpy"), 0.3), backend="numpy")
    svd.export_onnx(small, tmp_path / "net.onnx")
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    x = inputs_of(small, 9)
    assert distance(session.run(None, {"x": x})[0], small.predict(x)) < 1e-5


def test_constant_channels_are_folded_only_where_padding_leaves_them_constant() -> None:
    """A dead filter with a bias is 3 inside; around it, padding with zeros is not."""
    for mode, kept in (("replicate", 0), ("zeros", 1)):
        model = svd.Sequential(
            svd.Conv2d(1, 2, 1), svd.Pad2d(1, mode), svd.Conv2d(2, 1, 3), svd.Flatten(), input_shape=(1, 3, 3),
            backend="numpy",
        )  # fmt: skip
        model.parameters["conv1.theta"][..., 0] = 0
        model.parameters["conv1.bias"][:] = 3, 0
        small, x = svd.compress(model, backend="numpy"), inputs_of(model, 4)
        assert distance(small.predict(x), model.predict(x)) < 1e-5
        (pad,) = [op for op in small.ops if isinstance(op, PadOp)]
        assert pad.channels == 1 + kept


def test_channels_can_be_taken(tmp_path: Path) -> None:
    model = net("circular", backend="numpy")
    model.parameters["conv2.theta"][:, :, [1, 4]] = 0
    model.parameters["conv2.log_sigma2"][:, :, [1, 4]] = -30
    small = model.take({"conv1": [0, 2, 3, 5]})
    x = inputs_of(model, 3)
    assert distance(small.predict(x), model.predict(x)) < 1e-5


@pytest.mark.parametrize(
    "padding",
    [
        Padding(3, 3, (0, 0, -1, 0), "zeros"), Padding(3, 3, (0, 0, 2**30, 0), "zeros"),
        Padding(3, 4, (1, 1, 1, 1), "zeros"),
        Padding(3, 3, (1, 1, 1, 1), "wrap"), Padding(3, 3, [1, 1, 1, 1], "zeros"), Padding(3, 3, (1, 1, 1), "zeros"),
        (3, 3, (1, 1, 1, 1), "zeros"),
    ],
)  # fmt: skip
def test_impossible_paddings_are_refused(padding: Any) -> None:
    layers = svd.Pad2d(1), svd.Flatten(), svd.Dense(25, 2)
    small = svd.compress(svd.Sequential(*layers, input_shape=(1, 3, 3)), backend="numpy")
    ops = [PadOp("pad1", padding, 1) if isinstance(op, PadOp) else op for op in small.ops]
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match="pad1"):
        SparseModel(ops, small.likelihood, "numpy")


def test_a_file_whose_padding_is_huge_is_refused_before_it_is_made(tmp_path: Path) -> None:
    from svd_numpy.files.safe_arrays import save_model

    model = svd.Sequential(svd.Pad2d(1), svd.Flatten(), svd.Dense(25, 2), input_shape=(1, 3, 3), backend="numpy")
    config = model.config()
    config["layers"][0]["padding"] = [0, 0, 2**29, 0]
    save_model(tmp_path / "net.safetensors", model.arrays(), config)
    with pytest.raises(CheckpointError, match="activations per example"):
        svd.Sequential.load(tmp_path / "net.safetensors", "numpy")


# ---- "same"


@pytest.mark.parametrize("layer", [svd.Conv2d, svd.VariationalConv2d])
def test_same_keeps_the_size_of_images(layer: Any) -> None:
    for kernel, dilation, padding in ((3, 1, (1, 1)), ((5, 1), 1, (2, 0)), (2, 2, (1, 1)), ((3, 7), (2, 3), (2, 9))):
        made = layer(2, 4, kernel, padding="same", dilation=dilation)
        assert made.padding == padding
        assert made.build((9, 8, 2), np.random.default_rng(0))[0] == (9, 8, 4)
        assert made.config()["padding"] == list(padding)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: svd.Conv2d(1, 1, 2, padding="same"), r"put a Pad2d\(\(left, right, top, bottom\)\) before"),
        (lambda: svd.Conv2d(1, 1, 3, stride=2, padding="same"), r"'same' with stride \(2, 2\), expected stride 1"),
        (lambda: svd.Conv2d(1, 1, 3, padding="valid"), "padding: got 'valid'"),
        (lambda: svd.Pad2d((1, 2)), r"got \(1, 2\), expected a number, or \(left, right, top, bottom\)"),
        (lambda: svd.Pad2d(-1), "padding: got -1"),
        (lambda: svd.Pad2d(1, "wrap"), "mode: got 'wrap'"),
        (lambda: svd.Sequential(svd.Pad2d(3, "reflect"), svd.Flatten(), input_shape=(1, 3, 9)), "3 x 9, too small"),
        (lambda: svd.Sequential(svd.Pad2d(4, "circular"), svd.Flatten(), input_shape=(1, 9, 3)), "9 x 3, too small"),
        (lambda: svd.Sequential(svd.Dense(4, 3), svd.Pad2d(1)), r"got inputs of shape \(B, 3\), expected images"),
    ],
)
def test_what_does_not_fit_is_named(make: Any, words: str) -> None:
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
        make()


# ---- PyTorch


def test_paddings_of_pytorch_are_compared_and_the_layer_to_add_is_named() -> None:
    nn = pytest.importorskip("torch", reason="PyTorch is not installed").nn
    import torch

    x = np.random.default_rng(0).normal(size=(6, 2, 7, 8)).astype(np.float32)

    def outputs(module: Any) -> Array:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x)))

    for mode in MODES:
        theirs = nn.Sequential(nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode=mode), nn.Flatten(), nn.Linear(280, 3))
        padded = svd.Sequential(
            svd.Pad2d((2, 2, 1, 1), mode), svd.Conv2d(2, 4, 3), svd.Flatten(), svd.Dense(280, 3), input_shape=(2, 7, 8)
        )
        svd.from_torch_state_dict(padded, theirs, check=(x, outputs(theirs)))
        zeros = svd.Sequential(
            svd.Conv2d(2, 4, 3, padding=(1, 2)), svd.Flatten(), svd.Dense(280, 3), input_shape=(2, 7, 8)
        )
        if mode != "zeros":
            with pytest.raises(svd.SvdValueError, match=rf"put Pad2d\(\(2, 2, 1, 1\), '{mode}'\) before it"):
                svd.from_torch_state_dict(zeros, theirs)
    even = nn.Sequential(
        nn.Conv2d(2, 4, (2, 4), padding="same", padding_mode="reflect"), nn.Flatten(), nn.Linear(224, 3)
    )
    layers = svd.Pad2d((1, 2, 0, 1), "reflect"), svd.Conv2d(2, 4, (2, 4)), svd.Flatten(), svd.Dense(224, 3)
    svd.from_torch_state_dict(svd.Sequential(*layers, input_shape=(2, 7, 8)), even, check=(x, outputs(even)))
    for kind, mode in ((nn.ZeroPad2d, "zeros"), (nn.ReflectionPad2d, "reflect"), (nn.CircularPad2d, "circular")):
        theirs = nn.Sequential(kind((1, 2, 0, 3)), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(288, 3))
        ours = svd.Sequential(
            svd.Pad2d((1, 2, 0, 3), mode), svd.Conv2d(2, 4, 3), svd.Flatten(), svd.Dense(288, 3), input_shape=(2, 7, 8)
        )
        svd.from_torch_state_dict(ours, theirs, check=(x, outputs(theirs)))
        theirs[0] = kind((1, 2, 3, 0))
        with pytest.raises(svd.SvdValueError, match=r"put Pad2d\(\(1, 2, 3, 0\)"):
            svd.from_torch_state_dict(ours, theirs)


def test_means_without_the_padding_are_those_of_pytorch() -> None:
    nn = pytest.importorskip("torch", reason="PyTorch is not installed").nn
    import torch

    theirs = nn.Sequential(nn.AvgPool2d(3, 2, (1, 0), count_include_pad=False), nn.Flatten(), nn.Linear(24, 3))
    x = np.random.default_rng(0).normal(size=(6, 2, 7, 8)).astype(np.float32)
    with torch.no_grad():
        outputs = theirs(torch.from_numpy(x)).numpy()
    for inside in (True, False):
        pool = svd.AvgPool2d(3, 2, (1, 0), count_include_pad=not inside)
        ours = svd.Sequential(pool, svd.Flatten(), svd.Dense(24, 3), input_shape=(2, 7, 8), backend="numpy")
        if inside:
            svd.from_torch_state_dict(ours, theirs, check=(x, outputs))
        else:
            with pytest.raises(svd.SvdValueError, match="not count_include_pad"):
                svd.from_torch_state_dict(ours, theirs)
