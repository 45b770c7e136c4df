"""The one-file LSTM: its own derivatives, and the package against it, with states carried from batch to batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svd_numpy.data import Dataset
from svd_numpy.micro import adam_step
from svd_numpy.micro import lstm as micro
from svd_numpy.network.layers import VariationalDense, VariationalLSTM
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.trainer import Trainer

UNITS, LANES, STEPS = 9, 4, 12
LETTERS = len(micro.ALPHABET)
Array = np.ndarray[Any, Any]


def lanes() -> tuple[Array, Array]:
    """Letters and those that follow, each (LANES, 5 STEPS)."""
    codes, n = micro.encode(micro.TEXT), 5 * STEPS
    return codes[: LANES * n].reshape(LANES, n), codes[1 : LANES * n + 1].reshape(LANES, n)


def pieces(rows: Array) -> Array:
    """As `Dataset.lanes` wants them."""
    return rows.reshape(LANES, -1, STEPS).swapaxes(0, 1).reshape(-1, STEPS)


def fresh_state() -> micro.State:
    return np.zeros((LANES, UNITS)), np.zeros((LANES, UNITS))


def test_its_gradients_are_derivatives_of_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "clip", lambda gradients, most: 0.0)
    net, (x, y), rng = micro.make_net(UNITS), lanes(), np.random.default_rng(1)
    state = rng.normal(size=(2, LANES, UNITS)) / 2
    args = x[:, :20], y[:, :20], (state[0], state[1]), 900, 0.5, 3, 8
    for layer in net:
        layer["log_sigma2"] = rng.uniform(-6, -1, layer["log_sigma2"].shape)
    _, gradients, _ = micro.loss_and_gradients(net, *args)
    for layer, gradient in zip(net, gradients, strict=True):
        for name, array in layer.items():
            direction, start = rng.standard_normal(array.shape), array.copy()
            losses = []
            for shift in (1e-5, -1e-5):
                array[...] = start + shift * direction
                losses.append(micro.loss_and_gradients(net, *args)[0])
            array[...] = start
            expected = (losses[0] - losses[1]) / 2e-5
            assert (gradient[name] * direction).sum() == pytest.approx(expected, rel=1e-6), name


def test_the_package_retraces_every_loss_of_micro() -> None:
    x, y = lanes()
    layers = VariationalLSTM(tuple(micro.ALPHABET), UNITS, tokens=True), VariationalDense(UNITS, LETTERS)
    model = Sequential(*layers, backend="numpy", dtype="float64", seed=7, input_shape=(STEPS,))
    rows, labels = pieces(x), pieces(y)
    data = Dataset("rhyme", rows, labels, rows[:LANES], labels[:LANES], None, LETTERS, "here", lanes=LANES)
    config = TrainConfig(3, LANES, 1e-2, kl_schedule=((0, 0.0), (2, 1.0)), clip_norm=1.0)
    trainer = Trainer(model, data, config)
    names = ("theta", "log_sigma2", "bias")
    net = [{n: model.parameters[f"{layer.name}.{n}"].copy() for n in names} for layer in layers]
    moments = [[{n: np.zeros_like(array) for n, array in layer.items()} for layer in net] for _ in range(2)]
    ours, theirs, state = list[float](), list[float](), fresh_state()
    for step in range(15):
        lr, kl_weight, _ = trainer.schedule(step)
        state = fresh_state() if step % 5 == 0 else state
        batch = slice(step % 5 * STEPS, (step % 5 + 1) * STEPS)
        loss, gradients, state = micro.loss_and_gradients(
            net, x[:, batch], y[:, batch], state, x.size, kl_weight, model.seed, step
        )
        adam_step(net, gradients, (moments[0], moments[1]), lr, step)
        theirs.append(loss)
        kl, trainer.progress.nll_sum = model.kl(), 0.0
        trainer.step()
        ours.append(trainer.progress.nll_sum / (LANES * STEPS) + kl_weight * kl / x.size)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    for layer, own in zip(layers, net, strict=True):
        for name in names:
            np.testing.assert_allclose(getattr(layer, name), own[name], rtol=1e-7, atol=1e-9)


def test_it_is_short_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(Path(micro.__file__).read_text().splitlines()) <= 200
    micro.main(epochs=20, units=12, rows=8, steps=30)
    printed = capsys.readouterr().out
    assert printed.count("Written with") == 2
    assert float(printed.splitlines()[2].split()[2]) < 2.9  # the entropy of single letters is 2.87


def test_an_unknown_letter_is_an_error() -> None:
    with pytest.raises(ValueError, match="substring not found"):
        micro.encode("Jack?")
