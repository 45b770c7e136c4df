"""Texts: data sets, training with carried states, resuming, compact networks that keep their state, generated text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import command

import svd_numpy as svd
from svd_numpy.data.text import encode, rearranged
from svd_numpy.network.scoring import evaluate
from svd_numpy.train import resuming
from svd_numpy.train.trainer import Trainer

TEXT = "".join(f"{n} times {m} is {n * m}.\n" for n in range(40) for m in range(12))
Array = np.ndarray[Any, Any]


def rhyme(lanes: int = 4, steps: int = 10) -> svd.Dataset:
    return svd.text_dataset(TEXT, lanes, steps)


def letters_net(data: svd.Dataset, backend: str = "numpy", cell: Any = svd.VariationalLSTM) -> svd.Sequential:
    layers = cell(data.vocabulary, 12, tokens=True), svd.VariationalDense(12, data.n_classes)
    return svd.Sequential(*layers, backend=backend, input_shape=(data.x_train.shape[1],))


# ---- data ----


def test_lanes_go_on_where_they_ended() -> None:
    data = rhyme()
    joined = data.x_train.reshape(-1, 4, 10).swapaxes(0, 1).reshape(4, -1)
    following = data.y_train.reshape(-1, 4, 10).swapaxes(0, 1).reshape(4, -1)
    np.testing.assert_array_equal(joined[:, 1:], following[:, :-1])
    assert "".join(data.vocabulary[t] for t in joined.ravel()) == TEXT[: joined.size]
    other = rearranged(data, 2, 5)
    assert (other.lanes, other.x_train.shape[1]) == (2, 5)
    assert "".join(other.vocabulary[t] for t in other.x_train[::2].ravel()) == TEXT[: other.x_train.size // 2]


def test_words_are_padded_in_front_and_rare_ones_unknown() -> None:
    sentences = ["good film"] * 9 + ["Bad film", "an odd film"] + ["bad film"] * 9
    data = svd.sentence_dataset(sentences, [1] * 9 + [0] * 11, steps=4)
    assert data.vocabulary[:2] == ("<pad>", "<unknown>") and "odd" not in data.vocabulary
    assert (data.x_train[:, 0] == 0).all() and (data.x_train[:, -1] == data.vocabulary.index("film")).all()
    assert (len(data.x_train), len(data.x_test)) == (16, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: svd.text_dataset("too short"), "train part has 8 letters, expected at least"),
        (lambda: svd.text_dataset(b"bytes"), "text: got"),
        (lambda: svd.sentence_dataset(["a b", " "] * 9, [0, 1] * 9), "number 1 has no words"),
        (lambda: svd.sentence_dataset(["a b"] * 12, [0]), r"labels: got shape \(1,\)"),
        (lambda: svd.sentence_dataset(["a b"], [0]), "expected at least 10"),
        (lambda: encode("abc?", "abc"), r"got '\?' at place 3"),
        (lambda: rhyme().split(10), "split the text instead"),
        (lambda: svd.fit(letters_net(rhyme()), rhyme(), svd.TrainConfig(batch_size=5), progress=False), "expected 4"),
        (lambda: svd.LSTM("aab", 3, tokens=True), "all different"),
        (lambda: svd.Sequential(svd.LSTM(5, 3, tokens=True)), r"or \(T,\) for T tokens"),
        (lambda: svd.Sequential(svd.LSTM(5, 3), input_shape=(4,)), r"expected sequences \(B, T, 5\)"),
        (lambda: svd.Sequential(svd.Dense(5, 5), svd.Embedding(5, 3), input_shape=(5,)), "make it the first layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(make: Any, message: str) -> None:
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=message):
        make()


# ---- training ----


@pytest.mark.parametrize("cell", [svd.VariationalLSTM, svd.VariationalGRU])
def test_a_run_resumes_in_the_middle_of_an_epoch_with_its_states(tmp_path: Path, cell: Any) -> None:
    data = rhyme()
    config = svd.TrainConfig(3, data.lanes, 1e-2, kl_schedule=((0, 0.0), (2, 1.0)), clip_norm=0.1)
    whole, first, second = (Trainer(letters_net(data, cell=cell), data, config) for _ in range(3))
    stop = whole.steps_per_epoch + 7
    for _ in range(whole.steps_per_epoch * 2):
        whole.step()
    for _ in range(stop):
        first.step()
        if first.progress.step == whole.steps_per_epoch:
            for trainer in (first, whole):
                trainer.progress.nll_sum = trainer.progress.error_sum = 0.0
                trainer.progress.examples = 0
    resuming.save(first, tmp_path, 1.0)
    resuming.restore(second, tmp_path)
    assert any(state.any() for state in second.carried.values())
    for _ in range(whole.steps_per_epoch * 2 - stop):
        second.step()
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(second.arrays()[name], array, err_msg=name)


def test_states_are_carried_in_scoring_and_start_anew_in_each_epoch() -> None:
    data = rhyme()
    model = letters_net(data)
    long = svd.Sequential(
        svd.VariationalLSTM(data.vocabulary, 12, tokens=True), svd.VariationalDense(12, data.n_classes),
        backend="numpy", input_shape=(10 * (len(data.x_test) // 4),),
    )  # fmt: skip
    long.load_arrays({**model.arrays(), "input_mean": long.input_mean})
    x, y = (a.reshape(-1, 4, 10).swapaxes(0, 1).reshape(4, -1) for a in (data.x_test, data.y_test))
    assert evaluate(model, data.x_test, data.y_test, lanes=4)["nll"] == pytest.approx(evaluate(long, x, y)["nll"])
    assert evaluate(model, data.x_test, data.y_test)["nll"] != pytest.approx(evaluate(long, x, y)["nll"], rel=1e-6)


def test_steps_without_a_label_do_not_count() -> None:
    rng = np.random.default_rng(0)
    layers = svd.VariationalLSTM(5, 6, tokens=True), svd.VariationalDense(6, 5)
    model = svd.Sequential(*layers, backend="numpy", dtype="float64", input_shape=(8,))
    x, y = rng.integers(0, 5, (3, 8)), rng.integers(0, 5, (3, 8))
    y[:, 5:] = -1
    again = svd.VariationalLSTM(5, 6, tokens=True), svd.VariationalDense(6, 5)
    short = svd.Sequential(*again, backend="numpy", dtype="float64", input_shape=(5,))
    short.load_arrays({**model.arrays(), "input_mean": short.input_mean})
    assert svd.gradcheck(model, x, y, samples=4).ok
    scores = [evaluate(m, x[:, : m.in_shape[0]], y[:, : m.in_shape[0]]) for m in (model, short)]
    assert scores[0] == pytest.approx(scores[1])
    data = svd.Dataset("masked", x, y, x, y, None, 5, "here")
    trainer = Trainer(model, data, svd.TrainConfig(2, 2))
    trainer.step()
    assert trainer.progress.examples == 10 and trainer.batches.n_counted == 15


def test_gradients_are_shortened_to_the_given_norm() -> None:
    data = rhyme()
    model = letters_net(data)
    model.loss_and_grads(data.x_train[:4], data.y_train[:4], 100)
    arena, backend = model.arena, model.backend
    before = arena.grads.copy()
    backend.clip_gradients(arena, 1e9)
    np.testing.assert_array_equal(arena.grads, before)
    backend.clip_gradients(arena, 1e-3)
    ratio = arena.grads[before != 0] / before[before != 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    copies = {name: grad.astype(float) for name, grad in arena.grad_views.items()}
    for layer in model.variational_layers:
        copies[f"{layer.name}.log_sigma2"] *= np.exp(layer.log_sigma2)
    assert np.sqrt(sum((grad**2).sum() for grad in copies.values())) == pytest.approx(1e-3, rel=1e-4)


# ---- compact networks ----


def pruned_net(cell: Any, backend: str) -> svd.Sequential:
    """Most weights dead, some units unread, some gates without inputs, a stack of two."""
    layers = (
        svd.VariationalEmbedding("abcdefg", 6, padding=0), cell(6, 10), svd.VariationalLSTM(10, 8),
        svd.VariationalDense(8, 7), svd.ReLU(), svd.VariationalDense(7, 7),
    )  # fmt: skip
    model, rng = svd.Sequential(*layers, backend=backend, input_shape=(9,), seed=3), np.random.default_rng(0)
    for name, array in model.parameters.items():
        if name.endswith("log_sigma2"):
            array[rng.random(array.shape) < 0.75] = 9
        elif name.endswith("theta"):
            array *= 3
        else:
            array += 0.3 * rng.standard_normal(array.shape).astype(np.float32)
    model.parameters["embedding1.log_sigma2"][2] = 9
    return model


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("cell", [svd.VariationalLSTM, svd.VariationalGRU])
def test_a_compact_network_does_what_the_pruned_one_does(cell: Any, backend: str, tmp_path: Path) -> None:
    model = pruned_net(cell, "numpy")
    small = svd.compress(model, backend=backend)
    x = np.random.default_rng(1).integers(0, 7, (5, 9))
    np.testing.assert_allclose(small.predict(x)[:, -1], model.predict(x)[:, -1], rtol=1e-4, atol=1e-5)
    left = sum(int(alive.sum()) for alive in model.alive().values())
    assert small.sizes()["weights"] < left
    again = svd.RecurrentModel.load(small.save(tmp_path / "small.npz"), backend)
    np.testing.assert_array_equal(again.predict(x), small.predict(x))
    assert again.vocabulary == tuple("abcdefg") and again.padding == 0
    with pytest.raises(svd.SvdValueError, match=r"token: got 7, expected 0..6"):
        small.step(7)
    with pytest.raises(svd.SvdTypeError, match="recurrent one"):
        svd.sizes(model)


@pytest.mark.parametrize("list_cost", [0.0, 1e9], ids=["lists", "matrices"])
@pytest.mark.parametrize("cell", [svd.VariationalLSTM, svd.VariationalGRU])
def test_a_step_is_the_same_on_lists_and_on_matrices(
    cell: Any, list_cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svd_numpy.sparse import recurrent_steps

    model = pruned_net(cell, "numpy")
    plain = svd.compress(model, backend="numpy")
    monkeypatch.setattr(recurrent_steps, "_LIST_COST", list_cost)
    fast = svd.compress(model, backend="auto")
    for token in (0, 3, 0, 6, 2, 1, 1, 0, 5):  # 0 is padding, 2 a dead word
        y = fast.step(token)
        np.testing.assert_allclose(y, plain.step(token), rtol=1e-4, atol=1e-5)
    before = y.copy()
    fast.step(1)
    np.testing.assert_array_equal(y, before)  # it is the caller's
    fast.reset()
    plain.reset()
    np.testing.assert_allclose(fast.step(4), plain.step(4), rtol=1e-4, atol=1e-5)


def test_units_that_only_read_each_other_are_dead() -> None:
    layers = svd.LSTM(3, 4, tokens=True), svd.Dense(4, 2)
    model = svd.Sequential(*layers, backend="numpy", input_shape=(6,))
    theta, out = model.parameters["lstm1.theta"], model.parameters["dense1.theta"]
    own = theta[3:].reshape(4, 4, 4)  # (unit that is read, gate, unit that reads)
    own[:] = 0
    own[0, :, 1] = own[1, :, 0] = 0.5  # units 0 and 1 read each other
    own[2, :, 3] = 0.5  # unit 3, which is read, reads unit 2
    out[:3] = 0
    small = svd.compress(model, backend="numpy")
    assert small.ops[0].units == 2
    x = np.random.default_rng(0).integers(0, 3, (4, 6))
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-5, atol=1e-6)


def test_generated_text_goes_on_with_the_prompt() -> None:
    data = rhyme(8, 20)
    model = svd.Sequential(
        svd.LSTM(data.vocabulary, 32, tokens=True), svd.Dense(32, data.n_classes), input_shape=(20,), backend="numpy"
    )
    svd.fit(model, data, svd.TrainConfig(12, 8, 1e-2, clip_norm=1.0), progress=False)
    text = svd.generate(model, "7 times ", 60, temperature=0)
    assert text.startswith("7 times ") and " is " in text and len(text) == 68
    assert svd.generate(model, "7", 30, seed=1) == svd.generate(svd.compress(model), "7", 30, seed=1)
    with pytest.raises(svd.SvdValueError, match="prompt: got 'X' at place 0"):
        svd.generate(model, "X")
    with pytest.raises(svd.SvdValueError, match="empty"):
        svd.generate(model, "")


# ---- experiments ----


def test_train_text_writes_resumes_and_extends(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": "reviews-text", "units": 8, "lanes": 32, "backend": "numpy"}
    options |= {"run_dir": tmp_path / "run", "progress": False, "changes": {"finetune_epochs": 0}}
    result = svd.train_text(epochs=1, **options)
    assert {"model.safetensors", "result.json", "result.txt"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert "nats per letter" in str(result) and result.best["epoch"] == 1
    again = svd.train_text(epochs=1, resume=True, **options)
    assert again.test_nll == result.test_nll
    longer = svd.train_text(epochs=1, resume=True, extend=1, **options)
    assert len(longer.history) == 2
    assert json.loads((tmp_path / "run" / "result.json").read_bytes())["epochs"] == 2
    network = svd.Sequential.load(tmp_path / "run" / "model.safetensors")
    assert network.layers[0].vocabulary == result.data.vocabulary
    assert len(command("generate", str(tmp_path / "run"), "the ", "--length", "20").stdout) == 25


def test_train_sentiment_lists_the_words_that_are_left() -> None:
    result = svd.train_sentiment(dataset="reviews", features=8, units=8, epochs=2, backend="numpy", progress=False)
    assert 0 < len(result.words()) <= len(result.data.vocabulary)
    assert "per sentence" in str(result)
    with pytest.raises(svd.SvdValueError, match="expected labelled sentences"):
        svd.train_sentiment(dataset="digits", progress=False)


def test_without_files_auto_takes_made_up_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVD_NUMPY_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = svd.train_text(units=4, lanes=32, epochs=1, kind="dense", backend="numpy", progress=False)
    assert result.data.name == "reviews-text" and "was not found" in result.data.warning
    own = tmp_path / "own.txt"
    own.write_text(TEXT, "utf-8")
    assert svd.train_text(dataset=str(own), units=4, lanes=8, steps=10, epochs=1, backend="numpy", progress=False)
