"""Pruning of ordinary weights while training: schedules, choices of weights, gradients, resumed runs, and refusals."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import N_CLASSES, N_IN, STEPS_PER_EPOCH, bits, make_data, make_net, run_log, timeless
from test_micro_methods import numeric_slope
from thread_counts import assert_same_bits

import svd_numpy as svd
from svd_numpy.files import checkpoint
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.cpu.backend import NumbaBackend
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.micro import dynamic_surgery, ivon, zeros_like
from svd_numpy.train import loop, sharing, surgery
from svd_numpy.train.magnitude import drop_smallest
from svd_numpy.train.pruning import Place, Pruning, check_pruning
from svd_numpy.train.trainer import Trainer

FAST, PLAIN = NumbaBackend(), ReferenceBackend()
PLACE = Place(STEPS_PER_EPOCH, n_train=110, seed=0)
PRUNINGS: dict[str, Pruning] = {
    "rounds": svd.MagnitudeRounds(rounds=((2, 0.5), (4, 0.8)), scale="layer", l2=1e-3),
    "gradual": svd.GradualMagnitude(start=1, stop=5, sparsity=0.9, every=2),
    "surgery": svd.Surgery(start=2, stop=5, c=(0.5, 0.2), gamma=0.1, l2=1e-4),
    "ivon": svd.IVON(start=1, stop=5, sparsity=0.9, every=2, l2=1e-3, beta2=0.99),
    "sharing": svd.WeightSharing(start=2, stop=5, components=5, strength=0.1, l2=1e-3),
}


def dense_net(backend: str = "numpy", **options: Any) -> svd.Sequential:
    """12 - 8 - 3, ordinary weights."""
    return svd.Sequential(svd.Dense(N_IN, 8), svd.ReLU(), svd.Dense(8, N_CLASSES), backend=backend, **options)


def config(pruning: Pruning | None, **changes: Any) -> svd.TrainConfig:
    return svd.TrainConfig(**({"epochs": 6, "batch_size": 25, "lr": 0.01, "pruning": pruning} | changes))


# ------------------------------------------------------------ when, and which


def test_the_cubic_schedule_has_the_published_values() -> None:
    plan = svd.GradualMagnitude(start=10, stop=50, sparsity=0.95, every=2)
    found = [plan.sparsity_at(50 + round(200 * share), PLACE) for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.257, 0.549, 0.831, 0.935, 0.95], abs=5e-4)
    due = [done for done in range(400) if plan.sparsity_at(done, PLACE) is not None]
    assert due == list(range(52, 251, 2))


def test_a_last_interval_that_is_shorter_still_ends_at_the_sparsity() -> None:
    plan = svd.GradualMagnitude(start=0, stop=2, sparsity=0.5, every=7)
    found = {done: plan.sparsity_at(done, PLACE) for done in range(13) if plan.sparsity_at(done, PLACE) is not None}
    assert list(found) == [7, 10] and found[10] == 0.5


def test_rounds_come_after_their_epochs() -> None:
    plan = svd.MagnitudeRounds(rounds=((1, 0.5), (2.4, 0.75)))
    found = [(done, plan.sparsity_at(done, PLACE)) for done in range(30)]
    assert [pair for pair in found if pair[1] is not None] == [(5, 0.5), (12, 0.75)]


def two_layers() -> svd.Sequential:
    model = svd.Sequential(svd.Dense(2, 2), svd.ReLU(), svd.Dense(2, 2), backend="numpy")
    model.parameters["dense1.theta"][...] = [[0.1, -0.2], [0.3, -0.4]]
    model.parameters["dense2.theta"][...] = [[1.0, -2.0], [3.0, -4.0]]
    return model


def left(model: svd.Sequential) -> list[int]:
    return [int(alive.sum()) for alive in model.alive().values()]


def test_the_smallest_weights_leave_of_the_network_or_for_their_layer() -> None:
    def drop(model: svd.Sequential, sparsity: float, scale: Any) -> None:
        sizes = {name: np.abs(model.parameters[name]) for name in ("dense1.theta", "dense2.theta")}
        drop_smallest(model.arena, sizes, sparsity, scale)

    model = two_layers()
    drop(model, 0.5, "none")
    assert left(model) == [0, 4]
    model = two_layers()
    drop(model, 0.5, "layer")
    np.testing.assert_array_equal(model.parameters["dense1.theta"] != 0, [[False, False], [True, True]])
    np.testing.assert_array_equal(model.parameters["dense2.theta"] != 0, [[False, False], [True, True]])
    model.parameters["dense1.theta"][0, 0] = 9  # dead ones stay dead, whatever they hold
    drop(model, 0.625, "none")
    np.testing.assert_array_equal(model.parameters["dense1.theta"] != 0, [[False, False], [False, True]])
    drop(model, 0.999, "none")
    assert sum(left(model)) == 1  # one weight is always left


# ------------------------------------------------------------ whole runs


@pytest.mark.parametrize("name", PRUNINGS)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_network_is_pruned_and_its_records_say_so(name: str, backend: str) -> None:
    model = dense_net(backend)
    history = svd.fit(model, make_data(), config(PRUNINGS[name], eval_every=1), progress=False)
    total = sum(alive.size for alive in model.alive().values())
    assert history[0]["compression"] == 1 or name in ("gradual", "ivon")
    assert history[-1]["compression"] == pytest.approx(total / sum(left(model)))
    assert history[-1]["living"] == sum(left(model)) < total
    if name in ("rounds", "gradual", "ivon"):
        wanted = [1, 2, 2, 5, 5, 5] if name == "rounds" else [1, 1.79, 4.62, 8, 10, 10]
        assert [record["compression"] for record in history] == pytest.approx(wanted, rel=0.01)
    if name == "sharing":
        assert len(np.unique(np.concatenate([model.parameters[f"dense{i}.theta"].ravel() for i in (1, 2)]))) <= 5
    x = make_data().x_test
    np.testing.assert_allclose(svd.sparsify(model).predict(x), model.predict(x))


@pytest.mark.parametrize("name", PRUNINGS)
@pytest.mark.parametrize("step", [3, 11, 2 * STEPS_PER_EPOCH, 17, 5 * STEPS_PER_EPOCH, 27])
def test_a_stopped_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    whole = dense_net()
    history = svd.fit(whole, make_data(), config(PRUNINGS[name]), progress=False)
    original = Trainer.step

    def stopping(self: Trainer) -> None:
        original(self)
        if self.progress.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(svd.TrainingInterrupted):
        svd.fit(dense_net(), make_data(), config(PRUNINGS[name]), run_dir=tmp_path, progress=False)
    monkeypatch.setattr(Trainer, "step", original)
    assert checkpoint.load(tmp_path / "checkpoints").step == step
    again = dense_net()
    svd.fit(again, make_data(), config(PRUNINGS[name]), run_dir=tmp_path, resume=True, progress=False)
    assert bits(again) == bits(whole)
    assert run_log(tmp_path) == timeless(history)


def test_a_finished_run_is_extended_as_if_it_had_been_longer(tmp_path: Path) -> None:
    for name, pruning in PRUNINGS.items():
        short, long = dense_net(), dense_net()
        svd.fit(short, make_data(), config(pruning), run_dir=tmp_path / name, progress=False)
        more = config(pruning).extended(2)
        svd.fit(short, make_data(), more, run_dir=tmp_path / name, resume=True, progress=False)
        svd.fit(long, make_data(), more, progress=False)
        assert bits(short) == bits(long)


def test_another_pruning_is_another_run(tmp_path: Path) -> None:
    svd.fit(dense_net(), make_data(), config(PRUNINGS["rounds"]), run_dir=tmp_path, progress=False)
    with pytest.raises(svd.SvdValueError, match=r"another config \(differs in \['pruning'\]"):
        svd.fit(dense_net(), make_data(), config(None), run_dir=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("name", PRUNINGS)
def test_settings_survive_json_and_stretching(name: str) -> None:
    pruning = PRUNINGS[name]
    assert check_pruning("pruning", pruning.to_json()) == pruning
    assert pruning.stretched(2).stretched(0.5) == pruning
    assert svd.TrainConfig(**config(pruning).to_json()) == config(pruning)


# ------------------------------------------------------------ surgery


def test_surgery_retraces_every_loss_of_micro() -> None:
    data, plan = make_data(), svd.Surgery(start=1, stop=8, c=(0.5, 0.2), gamma=0.02)
    model = dense_net(dtype="float64")
    trainer = Trainer(model, data, config(plan, epochs=9, lr=0.03))
    names = ("dense1", "dense2")
    net = [{n: model.parameters[f"{layer}.{n}"].copy() for n in ("theta", "bias")} for layer in names]
    masks, limits = [np.ones(layer["theta"].shape, bool) for layer in net], [0.0, 0.0]
    moments = zeros_like(net), zeros_like(net)
    came_back = 0
    while not trainer.done:
        step = trainer.progress.step
        trainer.batches.begin(step)
        rows = trainer.batches.order[trainer.batches.rows(step)].copy()
        loss, gradients = dynamic_surgery.loss_and_gradients(
            net, masks, data.x_train[rows].astype(np.float64), data.y_train[rows]
        )
        if step >= 40:  # surgeries are over: what is cut no longer learns
            for gradient, mask in zip(gradients, masks, strict=True):
                gradient["theta"] *= mask
        dynamic_surgery.adam_step(net, gradients, moments, 0.03, step)
        if step + 1 == 5:
            limits = [dynamic_surgery.thresholds([la], c)[0] for la, c in zip(net, (0.5, 0.2), strict=True)]
        if 5 <= step + 1 < 40 and surgery.operates(step + 1 - 5, 0.02, 0):
            new = [dynamic_surgery.surgery(la["theta"], m, t) for la, m, t in zip(net, masks, limits, strict=True)]
            came_back += sum(int((now & ~old).sum()) for old, now in zip(masks, new, strict=True))
            masks = new
        trainer.progress.nll_sum = 0.0
        trainer.step()
        assert trainer.progress.nll_sum / len(rows) == pytest.approx(loss, rel=1e-9)
    assert came_back > 0
    for name, layer, mask in zip(names, net, masks, strict=True):
        np.testing.assert_allclose(model.parameters[f"{name}.theta"], layer["theta"] * mask, rtol=1e-7, atol=1e-12)


def test_a_weight_between_the_thresholds_stays_as_it_is() -> None:
    theta = np.array([0.5, -0.89, 0.95, -1.05, 1.2])
    assert list(surgery.new_mask(theta, np.ones(5, np.uint8), 1.0)) == [False, False, True, True, True]
    assert list(surgery.new_mask(theta, np.zeros(5, np.uint8), 1.0)) == [False, False, False, False, True]


def test_surgeries_become_rare() -> None:
    found = [surgery.operates(step, 1e-2, seed=3) for step in range(2000)]
    assert sum(found[:50]) > 35
    assert sum(found[1000:]) == pytest.approx(np.sum(1 / (1 + 0.01 * np.arange(1000, 2000))), abs=25)


# ------------------------------------------------------------ IVON


def test_ivon_retraces_every_loss_of_micro() -> None:
    data = make_data()
    std = float(ivon.sigma(np.array(ivon.H_START), len(data.x_train)))
    plan = svd.IVON(start=0, stop=1, sparsity=0, l2=ivon.DELTA, std_start=std, beta2=ivon.BETA2)
    model = dense_net(dtype="float64")
    trainer = Trainer(model, data, config(plan, epochs=9, lr=0.03))
    net = [{n: model.parameters[f"dense{i}.{n}"].copy() for n in ("theta", "bias")} for i in (1, 2)]
    averages = ivon.start_averages(net)
    while not trainer.done:
        step = trainer.progress.step
        trainer.batches.begin(step)
        rows = trainer.batches.order[trainer.batches.rows(step)].copy()
        drawn = model.backend.noise(NoiseKey(0, 2**31, step), 1, 4096).ravel()
        noise = [
            {n: drawn[model.arena.ranges[f"dense{i}.{n}"]].reshape(a.shape) for n, a in layer.items()}
            for i, layer in enumerate(net, start=1)
        ]
        x = data.x_train[rows].astype(np.float64)
        loss = ivon.step(net, averages, noise, x, data.y_train[rows], len(data.x_train), 0.03, step)
        trainer.progress.nll_sum = 0.0
        trainer.step()
        assert trainer.progress.nll_sum / len(rows) == pytest.approx(loss, rel=1e-9)
    for i, layer in enumerate(net, start=1):
        for name, mean in layer.items():  # between two steps the network is that of the means
            np.testing.assert_allclose(model.parameters[f"dense{i}.{name}"], mean, rtol=1e-7, atol=1e-12)


def test_ivon_drops_what_is_small_and_what_lies_in_a_flat_direction() -> None:
    plan = svd.IVON(start=0, stop=1, sparsity=0.5, every=1, l2=0.01)
    for curvature, expected in ((1.0, [0, 4]), (1e4, [4, 0])):  # of the first layer, whose weights are smaller
        model = two_layers()
        pruner = plan.pruner(model, PLACE)
        pruner.arrays["pruning/h"][:] = 1
        pruner.arrays["pruning/h"][model.arena.ranges["dense1.theta"]] = curvature
        pruner.after_update(PLACE.steps_per_epoch)
        assert left(model) == expected


@pytest.mark.parametrize("epochs", [1, 40])
def test_ivon_forgets_its_first_curvature_slowly_however_long_the_training(epochs: int) -> None:
    plan, model = svd.IVON(start=0, stop=epochs, sparsity=0.5, l2=1e-6), two_layers()
    pruner = plan.pruner(model, PLACE)
    first = pruner.arrays["pruning/h"].copy()
    for step in range(steps := epochs * PLACE.steps_per_epoch):  # gradients are 0, as if there were no curvature
        pruner.before_forward(step)
        pruner.before_update(step, lr=0.1)
    left_over = (1 - 1 / steps) ** steps  # 1 / e; the square in the update adds a little
    np.testing.assert_allclose(pruner.arrays["pruning/h"] / first, left_over, atol=0.06)


# ------------------------------------------------------------ weight-sharing


def some_mixture() -> Any:
    mixture = sharing.start_mixture(4)
    mixture[1] += [3, 1, 0.5, 2]
    mixture[2] = [0, 0.3, -0.2, 1]
    return mixture


def complexity(theta: Any, mixture: Any) -> float:
    """-log p(weights, precisions) in nats, written out."""
    shares, precisions = np.exp(sharing.log_shares(mixture[2])), np.exp(mixture[1])
    assert shares[0] == pytest.approx(0.99) and shares.sum() == pytest.approx(1)
    distance = theta - mixture[0][:, None]
    density = shares @ (np.sqrt(precisions)[:, None] * np.exp(-precisions[:, None] * distance**2 / 2))
    others = len(shares) - 1
    a, b = np.array([5e3] + [250] * others), np.array([2] + [0.1] * others)
    return float(-np.log(density).sum() + ((1 - a) * mixture[1] + b * precisions).sum())


def test_gradients_of_the_complexity_are_those_of_finite_differences() -> None:
    theta, mixture = np.array([0.0, 0.02, -0.3, 0.55, 1.4, -2.0]), some_mixture()
    d_theta = np.ones(6)
    of_mixture = sharing.add_pulls(PLAIN, [(theta, d_theta)], mixture, 0.5)
    numeric = [numeric_slope(lambda: complexity(theta, mixture), theta, at) for at in range(6)]
    np.testing.assert_allclose(2 * (d_theta - 1), numeric, rtol=1e-6, atol=1e-5)
    for row, slopes in enumerate(2 * of_mixture):
        numeric = [numeric_slope(lambda: complexity(theta, mixture), mixture, (row, j)) for j in range(4)]
        if row == 0:
            numeric[0] = 0.0  # the mean of the first component is fixed
        np.testing.assert_allclose(slopes, numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("weights", "components"), [(1, 2), (63, 16), (70_001, 16), (40_000, 256)])
def test_the_kernel_of_the_mixture_is_the_equations(weights: int, components: int) -> None:
    rng = np.random.default_rng(weights)
    theta = rng.normal(0, 0.3, weights).astype(np.float32)
    mixture = sharing.start_mixture(components)
    mixture[1:] += rng.normal(0, 1, (2, components))
    exact = np.full(weights, 2.0)
    of_mixture = sharing.add_pulls(PLAIN, [(theta.astype(np.float64), exact)], mixture, 0.1)

    def pulls() -> list[Any]:
        gradient = np.full(weights, 2.0, np.float32)
        found = sharing.add_pulls(FAST, [(theta, gradient)], mixture, 0.1)
        np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found, of_mixture, rtol=1e-4, atol=1e-5 * np.abs(of_mixture).max())
        return [found, gradient]

    assert_same_bits(pulls)


@pytest.mark.parametrize("backend", [PLAIN, FAST], ids=["numpy", "numba"])
def test_everything_is_finite_far_from_all_components(backend: Any) -> None:
    theta, gradient = np.array([1e6, -1e6], np.float32), np.zeros(2, np.float32)
    mixture = some_mixture() + np.array([[0], [8], [0]])
    assert np.isfinite(sharing.add_pulls(backend, [(theta, gradient)], mixture, 1.0)).all()
    assert np.isfinite(gradient).all()


def test_weights_take_the_mean_of_their_component_and_overlapping_ones_become_zero() -> None:
    mixture = np.array([[0, 0.01, 0.5, -0.5], [6.0, 6, 6, 6], [0, 0, 0, 0]])
    np.testing.assert_array_equal(
        sharing.quantised(np.array([0.02, 0.45, -0.7, 0.003]), mixture), [0.0, 0.5, -0.5, 0.0]
    )


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: svd.MagnitudeRounds(rounds=((1, 1.0),)), "sparsity: got 1, expected a share"),
        (lambda: svd.MagnitudeRounds(scale="neuron"), "scale: got 'neuron', expected one of"),
        (lambda: svd.GradualMagnitude(start=5, stop=5), "stop: got epoch 5, expected one after start, 5"),
        (lambda: svd.Surgery(c=()), r"c: got \(\), expected numbers"),
        (lambda: svd.IVON(l2=0), "l2: got 0"),
        (lambda: svd.WeightSharing(components=1), "components: got 1"),
        (lambda: config(PRUNINGS["rounds"], finetune_epochs=2), "finetune_epochs: got 2 and pruning"),
        (lambda: config(PRUNINGS["rounds"], remove_above=3.0), "remove_above: got 3.0 and pruning"),
        (lambda: config("magnitude"), "pruning: got 'magnitude' of type str"),  # type: ignore[arg-type]
        (lambda: config({"kind": "surgery", "depth": 1}), "pruning: got unknown settings"),  # type: ignore[arg-type]
        (lambda: Trainer(make_net(), make_data(), config(PRUNINGS["rounds"])), "are variational"),
        (lambda: Trainer(dense_net(), make_data(), config(svd.Surgery(c=(1, 2, 3)))), "c: got 3 numbers"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make: Any, words: str) -> None:
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
        make()
