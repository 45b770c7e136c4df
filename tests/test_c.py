"""Networks as C: compiled without a warning, run under the sanitizers, they give the bits of their NumPy twin."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sparse_tools import NETWORKS, distance, inputs_of, kill

import svd_numpy as svd
from svd_numpy.exchange.c.code import write_code
from svd_numpy.exchange.c.memory import plan_memory
from svd_numpy.exchange.c.steps import steps_of

REAL_DATA = os.environ.get("SVD_NUMPY_DATA", "")
CC = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
compiled = pytest.mark.skipif(CC is None, reason="no C compiler (cc, gcc or clang) is installed")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
CHECKED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
DRIVER = """
#include <stdio.h>
#include "net.h"
int main(void)
{
    static net_score scores[NET_OUTPUTS];
    while (fread(net_input, sizeof net_input[0], NET_INPUTS, stdin) == NET_INPUTS) {
        const unsigned best = net_run(scores);
        for (unsigned i = 0; i < NET_OUTPUTS; i++) {
            if (scores[i] > scores[best]) {
                return 1;
            }
        }
        fwrite(scores, sizeof scores[0], NET_OUTPUTS, stdout);
    }
    return 0;
}
"""


def build(folder: Path, *options: str) -> Path:
    """Compile a network called "net" with a program that reads inputs and writes scores."""
    (folder / "driver.c").write_text(DRIVER)
    program = folder / "driver"
    command = [CC or "cc", *STRICT, *options, "-o", str(program), str(folder / "net.c"), str(folder / "driver.c")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def scores(program: Path, inputs: np.ndarray, dtype: str) -> np.ndarray:
    """What the compiled network makes of inputs (B, I)."""
    done = subprocess.run([program], input=np.ascontiguousarray(inputs).tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, dtype).reshape(len(inputs), -1)


def small_and_inputs(name: str, dtype: str) -> tuple[svd.SparseModel, np.ndarray]:
    model = kill(NETWORKS[name](), 0.3)
    return svd.compress(model, backend="numpy"), inputs_of(model, 120, dtype=dtype)


def assert_same_bits(small: svd.SparseModel, calibration: np.ndarray, x: np.ndarray, folder: Path) -> svd.IntegerModel:
    """Export, compile with sanitizers, compare all scores with those of the twin."""
    twin = svd.to_integers(small, calibration)
    svd.export_c(small, folder / "net", calibration)
    found = scores(build(folder / "net", *CHECKED), twin.input_bytes(x), "<i4")
    assert np.array_equal(found, twin.predict_integers(x))
    return twin


# ------------------------------------------------------------ whole numbers


EXPORTED = [name for name in NETWORKS if name != "means inside"]  # which is refused


@compiled
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", EXPORTED)
def test_c_gives_the_bits_of_its_twin(name: str, dtype: str, tmp_path: Path) -> None:
    """Also on inputs far outside of what the calibration data span."""
    small, x = small_and_inputs(name, dtype)
    wild = x.copy()
    wild[60:] = np.where(np.arange(x[0].size).reshape(x[0].shape) % 2, wild[60:].max(), wild[60:].min())
    twin = assert_same_bits(small, x[:60], wild, tmp_path)
    bound = 0.05 if "mean" in name else 0.03  # with a mean, the input keeps seven of its eight bits
    assert distance(twin.predict(x[:60]), small.predict(x[:60])) < bound


@compiled
@pytest.mark.parametrize("name", EXPORTED)
def test_c_in_floats_gives_the_outputs_of_the_network(name: str, tmp_path: Path) -> None:
    small, x = small_and_inputs(name, "float32")
    svd.export_c(small, tmp_path / "net", x, numbers="floats")
    found = scores(build(tmp_path / "net", *CHECKED), x.reshape(len(x), -1), "<f4")
    assert distance(found, small.predict(x)) < 1e-5


@compiled
@pytest.mark.parametrize("numbers", ["integers", "floats"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_make_runs_the_examples_and_finds_a_wrong_one(numbers: str, dtype: str, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    small, x = small_and_inputs("lenet-5", dtype)
    svd.export_c(small, tmp_path / "digits", x[:100], examples=x[100:], numbers=numbers)
    done = subprocess.run(["make", "-s", f"CC={CC}"], cwd=tmp_path / "digits", capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("as expected") == 10 and not done.stderr, done.stderr
    source = (tmp_path / "digits" / "main.c").read_text()
    head, _, table = source.partition(" expected[")
    at = table.index("{", table.index("{") + 1) + 1
    (tmp_path / "digits" / "main.c").write_text(f"{head} expected[{table[:at]} 12345{table[table.index(',', at) :]}")
    done = subprocess.run(["make", "-s", f"CC={CC}"], cwd=tmp_path / "digits", capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout.count("WRONG") == 1


@pytest.fixture(scope="module")
def digits() -> tuple[svd.SparseModel, svd.Dataset]:
    """A trained network."""
    data = svd.load("digits")
    layers = svd.VariationalDense(784, 40), svd.ReLU(), svd.VariationalDense(40, 10)
    model = svd.Sequential(*layers, backend="numpy")
    svd.fit(
        model, data, svd.TrainConfig(epochs=30, batch_size=50, lr=3e-3, kl_schedule=((5, 0), (20, 0.5))), progress=False
    )
    return svd.compress(model, backend="numpy"), data


def test_whole_numbers_cost_next_to_nothing(digits: tuple[svd.SparseModel, svd.Dataset]) -> None:
    small, data = digits
    twin = svd.to_integers(small, data.x_train[:300])
    wanted, found = small.predict(data.x_test).argmax(1), twin.predict_integers(data.x_test).argmax(1)
    assert (wanted == data.y_test).mean() > 0.9
    assert (wanted == found).mean() > 0.99
    assert twin.error < 0.03


@compiled
def test_a_trained_network_gives_the_bits_of_its_twin(
    digits: tuple[svd.SparseModel, svd.Dataset], tmp_path: Path
) -> None:
    small, data = digits
    assert_same_bits(small, data.x_train[:300], data.x_test, tmp_path)


@compiled
@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA, reason="SVD_NUMPY_DATA does not name a folder with MNIST")
@pytest.mark.parametrize("arch", ["lenet-300-100", "lenet-5"])
def test_all_images_of_mnist(arch: str, tmp_path: Path) -> None:
    """The bits of the twin on all of them, and hardly an image on which it differs from the floats.

    After one epoch many images are undecided; the results in benchmarks/ are of networks trained to the end.
    """
    result = svd.train_mnist(dataset="mnist", arch=arch, epochs=1, data_dir=REAL_DATA, progress=False, eval_every=0)
    small, data = svd.compress(result.model), result.data
    twin = assert_same_bits(small, data.x_train[:1000], data.x_test, tmp_path)
    floats, whole = (net.predict(data.x_test).argmax(axis=1) for net in (small, twin))
    assert (floats == whole).mean() > 0.997
    assert abs((floats == data.y_test).mean() - (whole == data.y_test).mean()) <= 0.001


# ------------------------------------------------------------ memory and bytes


def test_images_are_computed_row_by_row() -> None:
    """Three rows are kept of the first images, twelve before; they and all that follows lie where the input was."""
    model = NETWORKS["lenet-5"]()
    plan = plan_memory(steps_of(svd.compress(model, 60, backend="numpy")))
    assert [rows.slots for rows in plan.rows] == [3, 5]
    assert plan.size < 784 + 3 * 12 * 6


@compiled
def test_readme_tells_the_bytes(tmp_path: Path) -> None:
    small, x = small_and_inputs("lenet-5", "uint8")
    svd.export_c(small, tmp_path / "net", x)
    code = write_code("net", steps_of(small), svd.to_integers(small, x))
    text = (tmp_path / "net" / "README.md").read_text()
    assert f"| tables, in flash | {code.table_bytes:,} |" in text and f"| {code.ram_bytes:,} |" in text
    if (size := shutil.which("size")) is None:
        pytest.skip("the program size (binutils) is not installed")
    options = ["-std=c99", "-Os", "-c", "-o", str(tmp_path / "net.o"), str(tmp_path / "net" / "net.c")]
    subprocess.run([CC or "cc", *options], check=True)
    done = subprocess.run([size, str(tmp_path / "net.o")], capture_output=True, text=True, check=True)
    text_bytes, data, bss = map(int, done.stdout.splitlines()[1].split()[:3])
    assert code.table_bytes < text_bytes + data < code.table_bytes + 4000
    assert code.ram_bytes <= bss < code.ram_bytes + 64


# ------------------------------------------------------------ hostile networks


def dense_net(sizes: tuple[int, ...], scale: float = 1.0, seed: int = 0) -> svd.Sequential:
    layers = list[svd.Layer]()
    for number, (i, o) in enumerate(pairwise(sizes)):
        layers += [svd.ReLU()] if number else []
        layers.append(svd.Dense(i, o))
    model = svd.Sequential(*layers, seed=seed, backend="numpy")
    for name, array in model.parameters.items():
        if name.endswith("theta"):
            array *= scale
    return model


@compiled
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e9])
@pytest.mark.parametrize("sizes", [(1, 1), (4000, 3), (5, 1, 2), (4000, 20, 1), (3, 300, 300, 2)])
def test_any_size_of_layers_and_weights(sizes: tuple[int, ...], scale: float, tmp_path: Path) -> None:
    model = dense_net(sizes, scale)
    model.parameters["dense1.bias"][:] = 0.1 * scale
    x = inputs_of(model, 40, dtype="uint8")
    twin = assert_same_bits(svd.compress(model, backend="numpy"), x, x[::-1], tmp_path)
    assert twin.error < 0.1


@compiled
def test_layers_without_weights(tmp_path: Path) -> None:
    model = dense_net((6, 5, 4, 3))
    x = inputs_of(model, 20, dtype="uint8")
    for dead in (["dense2.theta"], ["dense1.theta"], ["dense3.theta"], ["dense1.theta", "dense3.theta"]):
        model.parameters["dense3.bias"][:] = [1, -2, 3]
        for name in dead:
            model.parameters[name][:] = 0
        assert_same_bits(svd.compress(model, backend="numpy"), x, x, tmp_path)
    model.parameters["dense3.bias"][:] = 0  # nothing but zeros is left
    twin = assert_same_bits(svd.compress(model, backend="numpy"), x, x, tmp_path)
    assert not twin.predict_integers(x).any()


@compiled
def test_a_layer_that_is_silent_on_the_calibration_data(tmp_path: Path) -> None:
    """Its outputs are then all bias; with weights beside which this bias is nothing, the network is refused."""
    for scale in (1e-9, 1.0, 1e9):
        model = dense_net((6, 5, 4, 3), scale)
        theta = model.parameters["dense2.theta"]
        theta[:] = -np.abs(theta) - scale
        model.parameters["dense3.bias"][:] = [1, -2, 3]
        small, x = svd.compress(model, backend="numpy"), inputs_of(model, 20, dtype="uint8")
        if scale < 1e9:
            assert_same_bits(small, x, x, tmp_path)
        else:
            with pytest.raises(svd.SvdValueError, match="floats"):
                svd.to_integers(small, x)


@compiled
def test_wide_gaps_are_bridged(tmp_path: Path) -> None:
    model = dense_net((4000, 3))
    theta = model.parameters["dense1.theta"]
    theta[:] = 0
    theta[[0, 255, 511, 1000, 3999], [0, 1, 1, 2, 2]] = 1
    x = inputs_of(model, 50, dtype="uint8")
    assert_same_bits(svd.compress(model, backend="numpy"), x, x, tmp_path)


def test_what_cannot_be_exported_is_refused_by_name(tmp_path: Path) -> None:
    model = dense_net((20, 8, 4))
    x = inputs_of(model, 30)
    small = svd.compress(model, backend="numpy")
    for name in ("2fast", "a-b", "ünit", "a b", "Main"):
        with pytest.raises(svd.SvdValueError, match="expected a letter"):
            svd.export_c(small, tmp_path / name, x)
    with pytest.raises(svd.SvdTypeError, match="training examples"):
        svd.export_c(small, tmp_path / "net", None)
    with pytest.raises(svd.SvdValueError, match="no example"):
        svd.export_c(small, tmp_path / "net", x[:0])
    with pytest.raises(svd.SvdValueError, match="expected pixels if"):
        svd.export_c(small, tmp_path / "net", x, examples=inputs_of(model, 3, dtype="uint8"))
    with pytest.raises(svd.SvdValueError, match="numbers"):
        svd.export_c(small, tmp_path / "net", x, numbers="int8")
    with pytest.raises(svd.SvdTypeError, match="SparseModel"):
        svd.export_c(model, tmp_path / "net", x)  # type: ignore[arg-type]
    with pytest.raises(svd.SvdValueError, match="'dense1' has a side of 40,000"):
        svd.to_integers(svd.compress(dense_net((40_000, 2)), backend="numpy"), np.zeros((1, 40_000), np.uint8))
    for layer, reason, size in (
        (svd.Pad2d(1, name="odd"), "'odd' pads", 4),
        (svd.AvgPool2d(3, 1, padding=1, count_include_pad=False, name="odd"), "'odd' takes means without", 2),
    ):
        layers = svd.Conv2d(1, 2, 3), layer, svd.Conv2d(2, 2, 3), svd.Flatten(), svd.Dense(2 * size * size, 3)
        images = svd.Sequential(*layers, input_shape=(1, 6, 6), backend="numpy")
        with pytest.raises(svd.SvdValueError, match=reason):
            svd.export_c(svd.compress(images, backend="numpy"), tmp_path / "net", inputs_of(images, 3))
    cancelling = dense_net((2, 2, 1))
    cancelling.parameters["dense1.theta"][:] = [[1e6, 1], [-1e6, 1]]
    cancelling.parameters["dense2.theta"][:] = 1
    same = np.repeat(np.linspace(0, 1, 30), 2).reshape(30, 2)
    same[:, 1] += 1e-7
    with pytest.raises(svd.SvdValueError, match=r"'dense1' .*cancel.*floats"):
        svd.to_integers(svd.compress(cancelling, backend="numpy"), same)
    assert not list(tmp_path.iterdir())


@compiled
def test_names_of_layers_become_identifiers(tmp_path: Path) -> None:
    """Whatever they are, and even if the code has functions or tables that are called alike."""
    layers = (
        svd.Conv2d(1, 3, 3, padding=1, name="image"), svd.ReLU(), svd.Conv2d(3, 4, 3, name="in"),
        svd.AvgPool2d(2), svd.Conv2d(4, 4, 1, name="copied_input"), svd.Flatten(),
        svd.Dense(16, 5, name="1st layer/é"), svd.ReLU(), svd.Dense(5, 4, name="int"), svd.ReLU(),
        svd.Dense(4, 4, name="a.b"), svd.ReLU(), svd.Dense(4, 3, name="a_b"),
    )  # fmt: skip
    mean = np.linspace(0, 1, 36)
    model = kill(svd.Sequential(*layers, backend="numpy", input_shape=(1, 6, 6), input_mean=mean), 1.0, units=1.0)
    x = inputs_of(model, 20, dtype="uint8")
    assert_same_bits(svd.compress(model, backend="numpy"), x, x, tmp_path)
