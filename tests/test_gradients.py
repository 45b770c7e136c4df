"""Gradients against finite differences and against torch's autograd; moments of the sampled activations."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from svd_numpy.data import Dataset
from svd_numpy.kernels import available_backends, get_backend
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.priors import PRIORS
from svd_numpy.network.grad_check import gradcheck
from svd_numpy.network.layers import Dense, Gate, Layer, ReLU, VariationalDense
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.layers.factors import Factors
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.trainer import Trainer

Array = NDArray[Any]
needs_numba = pytest.mark.skipif(bool(available_backends()["numba"]), reason="numba is not installed")
BACKENDS = ["numpy", pytest.param("numba", marks=needs_numba)]
DTYPE = {"numpy": "float64", "numba": "float32"}
SIZES = [(1, 3, 17, 3), (7, 33, 1, 2), (12, 17, 65, 3), (13, 1, 33, 10), (100, 65, 17, 1)]  # B, I, hidden, O
KINDS: dict[str, Any] = {
    "dense": lambda n_in, n_out: Dense(n_in, n_out),
    "variational": lambda n_in, n_out: VariationalDense(n_in, n_out),
    "variational without bias": lambda n_in, n_out: VariationalDense(n_in, n_out, bias=False),
}


def scatter(model: Sequential, seed: int = 0) -> Sequential:
    """Move a model away from its start: variances from e^-8 to e^-1, some weights at 0, biases that count."""
    rng = np.random.default_rng(seed)
    for name, array in model.parameters.items():
        array += 0.2 * rng.standard_normal(array.shape)
        if name.endswith("log_sigma2"):
            array[...] = rng.uniform(-8, -1, array.shape)
        elif name.endswith("theta"):
            array[rng.random(array.shape) < 0.1] *= 1e-3
    return model


def problem(likelihood: str, rows: int, n_in: int, n_out: int) -> tuple[Array, Array]:
    rng = np.random.default_rng([rows, n_in, n_out])
    x = rng.standard_normal((rows, n_in))
    y = rng.integers(0, n_out, rows) if likelihood == "categorical" else rng.standard_normal((rows, n_out))
    return x, y


def assert_ok(model: Any, x: Array, y: Array | None = None, **options: Any) -> None:
    check = gradcheck(model, x, y, **options)
    assert check.ok, f"\n{check}"
    assert all(row.kinks <= row.checked for row in check.rows), f"\n{check}"


# --- Finite differences: every layer, prior, likelihood and backend ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
@pytest.mark.parametrize("prior", sorted(PRIORS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_and_prior(kind: str, prior: str, likelihood: str, backend: str) -> None:
    x, y = problem(likelihood, 7, 9, 3)
    layers = KINDS[kind](9, 17), ReLU(), KINDS[kind](17, 3)
    model = Sequential(*layers, prior=prior, backend=backend, dtype=DTYPE[backend], likelihood=likelihood)
    assert_ok(scatter(model), x, y, n_train=100, samples=6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_odd_sizes(size: tuple[int, int, int, int], kl_weight: float, backend: str) -> None:
    rows, n_in, hidden, n_out = size
    likelihood = "gaussian" if n_out == 1 else "categorical"
    x, y = problem(likelihood, rows, n_in, n_out)
    layers = VariationalDense(n_in, hidden), ReLU(), VariationalDense(hidden, n_out)
    model = Sequential(*layers, backend=backend, dtype=DTYPE[backend], likelihood=likelihood, seed=2**33)
    assert_ok(scatter(model), x, y, n_train=1000, kl_weight=kl_weight, samples=4, step=3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("log_sigma2", [-8.0, -4.5, -1.0])
def test_fresh_models_of_every_start(log_sigma2: float, backend: str) -> None:
    x, y = problem("categorical", 12, 5, 3)
    layers = (
        VariationalDense(5, 33, log_sigma2=log_sigma2),
        ReLU(),
        VariationalDense(33, 3, log_sigma2=log_sigma2),
    )
    model = Sequential(*layers, backend=backend, dtype=DTYPE[backend])
    assert_ok(model, x, y, n_train=500, samples=6)


def state_of(layer: Layer) -> dict[str, Any]:
    """The state of a layer, with that of the factors of a gate in the place of the object."""
    state = copy.deepcopy(vars(layer))
    return {name: vars(value) if isinstance(value, Factors) else value for name, value in state.items()}


@pytest.mark.parametrize(
    "layer", [Dense(5, 3), VariationalDense(5, 3), VariationalDense(5, 3, bias=False), ReLU(), Gate(5)]
)
def test_a_layer_alone(layer: Layer) -> None:
    before = state_of(layer)
    x = np.random.default_rng(0).standard_normal((7, 5))
    assert_ok(layer, x)
    assert_ok(layer, x, kl_weight=0.0)
    after = state_of(layer)
    assert before.pop("memory")._arrays == after["memory"]._arrays == {}
    assert before == {name: after[name] for name in before}


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_and_columns_of_zeros(backend: str) -> None:
    x, y = problem("categorical", 9, 20, 3)
    x[[0, 4]] = 0
    x[:, 3:9] = 0
    model = Sequential(VariationalDense(20, 3, bias=False), backend=backend, dtype=DTYPE[backend])
    assert_ok(scatter(model), x, y, kl_weight=0.0, samples=60)


# --- After training, in every stage of it ---


def directional_error(model: Sequential, x: Array, y: Array, run: Pass, kl_scale: float) -> float:
    """Relative error of the gradients of one batch along random directions, in any mode of pass."""
    mean_mode = run.mode == "mean"
    outputs = model.forward(model.prepare(x), run)
    targets = model.check_targets(y, len(x))
    d_outputs = np.empty_like(outputs)
    model.likelihood.loss(model.backend, outputs, targets, d_outputs)
    model.backward(d_outputs, run)
    if not mean_mode:
        model.backend.finish_gradients(model.arena, kl_scale, run.keep)
    gradient = model.arena.grads.astype(np.float64)
    trained = np.ones(gradient.size)
    if mean_mode:  # log variances stay as they are, and so do the numbers that are held
        trained[:] = model.arena.mask
        for segment in model.arena.segments:
            if segment.prior:
                trained[segment.log_sigma2 :][: segment.stop - segment.start] = 0

    oracle = model.copy(backend="numpy", dtype="float64")
    start, again = oracle.arena.params.copy(), Pass(oracle.backend, run.mode, run.keep, run.seed, run.step)

    def loss(shift: Array) -> float:
        oracle.arena.params[:] = start + shift
        outputs = oracle.forward(oracle.prepare(x), again)
        nll, _ = oracle.likelihood.loss(oracle.backend, outputs, targets, np.empty_like(outputs))
        return nll / len(x) + (0.0 if mean_mode else kl_scale * oracle.kl())

    pairs = []
    for seed in range(8):
        direction = np.random.default_rng(seed).standard_normal(start.size) * trained
        direction /= np.linalg.norm(direction)
        h = 1e-6
        pairs.append(((loss(h * direction) - loss(-h * direction)) / (2 * h), gradient @ direction))
    numeric, analytic = np.array(pairs).T
    return float(np.linalg.norm(numeric - analytic) / np.linalg.norm(numeric))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stage", ["variational", "train mask", "finetune"])
def test_after_training(blobs: Dataset, stage: str, backend: str) -> None:
    layers = VariationalDense(12, 17, log_sigma2=-5.0), ReLU(), VariationalDense(17, 3, log_sigma2=-5.0)
    model = Sequential(*layers, backend=backend, dtype=DTYPE[backend])
    finetune_epochs = 2 if stage == "finetune" else 0
    schedule = TrainConfig(5, 24, lr=0.02, train_mask=stage == "train mask", finetune_epochs=finetune_epochs)
    trainer = Trainer(model, blobs, schedule)
    for _ in range(50 + 8 * finetune_epochs // 2):
        trainer.step()
    masked = float(np.mean([np.mean(layer.pruned_theta(model.threshold) == 0) for layer in model.variational_layers]))
    assert 0.1 < masked < 0.95  # some weights are dead, not all
    x, y = blobs.x_train[:13], blobs.y_train[:13]
    if stage != "finetune":  # frozen weights have a sigma too small for finite differences of the KL
        assert_ok(model, x, y, n_train=240, samples=8)
    mode, keep = ("mean", 0.0) if stage == "finetune" else ("sample", model.keep if stage == "train mask" else 0.0)
    run = Pass(model.backend, mode, keep, seed=3, step=50)  # type: ignore[arg-type]
    assert directional_error(model, x, y, run, 1 / 240) < (1e-6 if backend == "numpy" else 2e-3)


# --- The checker itself ---


class WrongVariance(VariationalDense):
    """Forgets a tenth of a percent of one gradient, as if a factor were off."""

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        dx = super().backward(dy, run, want_dx)
        self.d_log_sigma2 *= 1.001
        return dx


class WrongInputs(VariationalDense):
    """Sends nothing back through the variance."""

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        dx = super().backward(dy, run, want_dx)
        return dx if dx is None else dy @ self.theta.T


class WrongCorner(VariationalDense):
    """One entry of thousands is wrong, and hardly ever among those sampled."""

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        dx = super().backward(dy, run, want_dx)
        self.d_theta[-1, -1] += 0.01
        return dx


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [(WrongVariance, "dense1.log_sigma2"), (WrongInputs, "x"), (WrongCorner, "dense1.theta")],
)
def test_mistakes_are_found_where_they_are(layer: Any, wrong: str) -> None:
    check = gradcheck(layer(50, 40), np.random.default_rng(0).standard_normal((7, 50)), kl_weight=0.0)
    assert not check.ok
    assert [row.name for row in check.rows if not row.ok] == [wrong]
    assert "WRONG" in next(line for line in str(check).splitlines() if line.startswith(wrong))


def test_kinks_are_left_out_and_counted() -> None:
    model = Sequential(Dense(2, 3), ReLU(), Dense(3, 1), backend="numpy", dtype="float64", likelihood="gaussian")
    x, y = np.zeros((4, 2)), np.ones((4, 1))  # all biases are 0: every unit sits on its kink
    rows = {row.name: row for row in gradcheck(model, x, y).rows}
    assert (rows["dense1.bias"].checked, rows["dense1.bias"].kinks) == (0, 4)
    assert not rows["dense1.bias"].ok  # nothing was compared, so nothing is proved
    assert (rows["dense2.bias"].kinks, rows["dense2.bias"].ok) == (0, True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_checked_model_keeps_its_bits(backend: str) -> None:
    x, y = problem("categorical", 5, 4, 3)
    model = Sequential(VariationalDense(4, 3), backend=backend, dtype=DTYPE[backend])
    arena = model.arena
    arena.grads[:] = 3
    before = [a.tobytes() for a in (arena.params, arena.grads, arena.m, arena.v, x, y)]
    assert gradcheck(model, x, y).ok
    assert [a.tobytes() for a in (arena.params, arena.grads, arena.m, arena.v, x, y)] == before


def test_uint8_pixels_and_the_input_mean() -> None:
    x = np.random.default_rng(0).integers(0, 256, (6, 4), dtype=np.uint8)
    model = Sequential(
        VariationalDense(4, 3), backend="numpy", dtype="float64", input_mean=np.full(4, 0.5), threshold=2.0
    )
    assert_ok(model, x, np.array([0, 1, 2, 0, 1, 2]))


class Forgetful(Dense):
    def __init__(self, in_features: int, out_features: int, gain: float) -> None:
        super().__init__(in_features, out_features)


def test_bad_arguments_are_named() -> None:
    x = np.zeros((4, 5))
    model = Sequential(VariationalDense(5, 3), backend="numpy", dtype="float64")
    with pytest.raises(TypeError, match="expected a layer such as"):
        gradcheck("dense", x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="y: got None"):
        gradcheck(model, x)
    with pytest.raises(ValueError, match="expected \\(B, 5\\)"):
        gradcheck(model, np.zeros((4, 6)), np.zeros(4, int))
    with pytest.raises(ValueError, match="x: got shape \\(5,\\)"):
        gradcheck(ReLU(), np.zeros(5))
    with pytest.raises(ValueError, match=r"config\(\)"):
        gradcheck(Forgetful(5, 3, gain=2.0), x)
    for name, value in [
        ("samples", 0),
        ("n_train", 0),
        ("kl_weight", -1.0),
        ("step", -1),
        ("tolerance", 0.0),
    ]:
        with pytest.raises(ValueError, match=name):
            gradcheck(VariationalDense(5, 3), x, **{name: value})  # type: ignore[arg-type]


# --- Torch's autograd, fed the same noise ---


@pytest.mark.parametrize("prior", ["log_uniform", "ard"])
def test_gradients_equal_those_of_torch(prior: str) -> None:
    torch = pytest.importorskip("torch")
    x, y = problem("categorical", 13, 9, 3)
    layers = VariationalDense(9, 17), ReLU(), VariationalDense(17, 3)
    model = scatter(Sequential(*layers, prior=prior, backend="numpy", dtype="float64", seed=5))
    loss, gradients = model.loss_and_grads(x, y, n_train=300, kl_weight=0.7, step=4)

    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in model.parameters.items()}
    h, kl = torch.tensor(x), torch.tensor(0.0, dtype=torch.float64)
    for index, name, units in ((0, "dense1", 17), (2, "dense2", 3)):
        theta, log_sigma2 = leaves[f"{name}.theta"], leaves[f"{name}.log_sigma2"]
        noise = torch.tensor(model.backend.noise(NoiseKey(5, index, 4), len(x), units))
        h = h @ theta + leaves[f"{name}.bias"] + torch.sqrt(h**2 @ log_sigma2.exp()) * noise
        h = torch.relu(h) if index == 0 else h
        log_alpha = log_sigma2 - torch.log(theta**2)
        kl = kl + 0.5 * torch.nn.functional.softplus(-log_alpha).sum()
        if prior == "log_uniform":
            kl = kl + 0.63576 * (1 - torch.sigmoid(1.87320 + 1.48695 * log_alpha)).sum()
    torch_loss = torch.nn.functional.cross_entropy(h, torch.tensor(y)) + 0.7 / 300 * kl
    torch_loss.backward()
    assert loss == pytest.approx(torch_loss.item(), rel=1e-12)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(gradients[name], leaf.grad.numpy(), rtol=1e-8, atol=1e-12, err_msg=name)


# --- Moments of what the layers sample ---

DRAWS = 40_000


def sampled(backend: str, bias: float) -> tuple[Array, Array, Array, Array]:
    """Many activations of one example, their mean and variance in theory, and as many of sampled weights."""
    n_in, n_out = 7, 5
    layer = VariationalDense(n_in, n_out)
    model = Sequential(layer, backend=backend, dtype=DTYPE[backend], likelihood="gaussian")
    scatter(model)
    layer.bias[:] = bias
    rng = np.random.default_rng(1)
    x = rng.standard_normal(n_in)
    run = Pass(model.backend, "sample", 0.0, 0, 0)
    y = model.forward(model.prepare(np.tile(x, (DRAWS, 1))), run).astype(np.float64)
    theta, sigma2 = layer.theta.astype(np.float64), np.exp(layer.log_sigma2.astype(np.float64))
    weights = theta + np.sqrt(sigma2) * rng.standard_normal((DRAWS, n_in, n_out))
    return y, x @ theta + bias, x**2 @ sigma2, np.einsum("i,dio->do", x, weights) + bias


@pytest.mark.parametrize("backend", BACKENDS)
def test_sampled_activations_have_the_moments_of_sampled_weights(backend: str) -> None:
    y, mean, var, explicit = sampled(backend, 0.4)
    errors = np.sqrt(var / DRAWS), var * np.sqrt(2 / DRAWS)  # standard errors of mean and variance
    for draws in (y, explicit):
        assert np.all(np.abs(draws.mean(axis=0) - mean) < 4.5 * errors[0])
        assert np.all(np.abs(draws.var(axis=0) - var) < 4.5 * errors[1])
    correlation = np.corrcoef(y.T) - np.eye(y.shape[1])  # columns of weights are independent
    assert np.abs(correlation).max() < 4.5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bias_moves_the_mean_and_nothing_else(backend: str) -> None:
    plain, mean, var, _ = sampled(backend, 0.0)
    moved, moved_mean, moved_var, _ = sampled(backend, 8.0)
    np.testing.assert_array_equal(var, moved_var)
    np.testing.assert_allclose(moved_mean, mean + 8)
    np.testing.assert_allclose(moved, plain + 8, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_noise_it_is_a_dense_layer(backend: str) -> None:
    rows, n_in, n_out = 13, 33, 17
    x, y = problem("categorical", rows, n_in, n_out)
    noisy = scatter(Sequential(VariationalDense(n_in, n_out), backend=backend, dtype=DTYPE[backend]))
    plain = Sequential(Dense(n_in, n_out), backend=backend, dtype=DTYPE[backend]).init_from(noisy)
    noisy.parameters["dense1.log_sigma2"][...] = -85
    loss, gradients = noisy.loss_and_grads(x, y, n_train=10, kl_weight=0.0)
    plain_loss, plain_gradients = plain.loss_and_grads(x, y, n_train=10)
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    for name, gradient in plain_gradients.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients["dense1.log_sigma2"], 0, atol=1e-12)


def test_both_backends_draw_the_same_network() -> None:
    pytest.importorskip("numba")
    x, y = problem("categorical", 12, 17, 3)
    layers = VariationalDense(17, 33), ReLU(), VariationalDense(33, 3)
    model = scatter(Sequential(*layers, backend="numpy", dtype="float64"))
    twin = model.copy(backend="numba", dtype="float32")
    assert twin.backend.name == get_backend("numba").name
    assert twin.loss(x, y, n_train=100) == pytest.approx(model.loss(x, y, n_train=100), rel=1e-5)
