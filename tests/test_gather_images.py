"""Batches of images: gathered channels last, moved and mirrored, the same on both backends and after a restart."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.kernels import get_backend
from svd_numpy.train import loop as train
from svd_numpy.train.trainer import Trainer

FAST, PLAIN = get_backend("numba"), get_backend("numpy", "float64")


def moved(image: NDArray[Any], down: int, right: int, mirror: int) -> NDArray[Any]:
    """Move one image (H, W, C) by padding and cutting."""
    h, w, _ = image.shape
    room = max(h, w, abs(down), abs(right))
    padded = np.pad(image, ((room, room), (room, room), (0, 0)))
    cut = padded[room - down : room - down + h, room - right : room - right + w]
    return cut[:, ::-1] if mirror else cut


def gather(backend: Any, source: Any, index: Any, scale: float, mean: Any, shape: Any, moves: Any) -> Any:
    height, width, channels = shape
    out = np.full((len(index), height, width, channels), np.nan, backend.dtype)
    backend.gather_rows(source, index, scale, mean.astype(backend.dtype), out, moves)
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (5, 9, 2), (1, 1, 4), (7, 4, 1)])
@pytest.mark.parametrize("move", [False, True])
def test_gather_images(dtype: Any, shape: tuple[int, int, int], move: bool, threads: int) -> None:
    rng = np.random.default_rng(sum(shape))
    height, width, channels = shape
    source = rng.integers(0, 256, (20, height * width * channels)).astype(dtype)
    index, mean, scale = rng.integers(0, 20, 33), rng.standard_normal(source.shape[1]), 1 / 255
    moves = np.column_stack([rng.integers(-6, 7, (33, 2)), rng.integers(0, 2, 33)]).astype(np.int32) if move else None
    rows = source[index].astype(np.float64) * scale - mean
    images = rows.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    wanted = images if moves is None else [moved(i, *m) for i, m in zip(images, moves.tolist(), strict=True)]
    np.testing.assert_allclose(gather(PLAIN, source, index, scale, mean, shape, moves), wanted, rtol=1e-12)
    fast = gather(FAST, source, index, scale, mean, shape, moves)
    np.testing.assert_allclose(fast, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", [FAST, PLAIN], ids=["numba", "numpy"])
def test_a_move_worked_out_by_hand(backend: Any) -> None:
    """One pixel down, one to the left; then mirrored; what comes from outside is 0 although the mean is not."""
    source, mean = np.arange(1, 7, dtype=np.uint8)[None], np.full(6, 0.5)  # 1 2 3 / 4 5 6
    index = np.zeros(4, np.int64)
    moves = np.array([[0, 0, 0], [1, -1, 0], [1, -1, 1], [2, 0, 0]], np.int32)
    out = gather(backend, source, index, 1.0, mean, (2, 3, 1), moves)[..., 0]
    np.testing.assert_array_equal(out[0], [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]])
    np.testing.assert_array_equal(out[1], [[0, 0, 0], [1.5, 2.5, 0]])
    np.testing.assert_array_equal(out[2], [[0, 0, 0], [0, 2.5, 1.5]])
    np.testing.assert_array_equal(out[3], 0)


def test_no_move_is_the_bits_of_moves_of_nothing() -> None:
    rng = np.random.default_rng(0)
    for shape in ((8, 8, 3), (8, 8, 1)):
        source, mean = rng.integers(0, 256, (9, np.prod(shape))).astype(np.uint8), rng.standard_normal(np.prod(shape))
        index, still = np.arange(9), np.zeros((9, 3), np.int32)
        for backend in (FAST, PLAIN):
            plain = gather(backend, source, index, 1 / 255, mean, shape, None)
            assert plain.tobytes() == gather(backend, source, index, 1 / 255, mean, shape, still).tobytes()


# ------------------------------------------------------------ training


def image_data() -> Dataset:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 256, (60, 3 * 6 * 6), dtype=np.uint8), np.arange(60) % 3
    return Dataset("squares", x[:45], y[:45], x[45:], y[45:], (3, 6, 6), 3, "made here")


def image_net(backend: str = "numpy") -> svd.Sequential:
    layers = svd.Flatten(), svd.VariationalDense(3 * 6 * 6, 3)
    return svd.Sequential(*layers, input_shape=(3, 6, 6), backend=backend)


def trainer(**settings: Any) -> Trainer:
    return Trainer(image_net(), image_data(), svd.TrainConfig(batch_size=20, **settings))


def moves_at(run: Trainer, step: int) -> NDArray[np.int32]:
    """The moves of the images of one step."""
    moves = run.batches.draw_moves(step)
    assert moves is not None
    return moves.copy()


def drawn(run: Trainer, count: int) -> NDArray[np.int32]:
    """As many moves, over several steps."""
    return np.concatenate([moves_at(run, step) for step in range(count // 5)])[:count]  # 20, 20, 5 of an epoch


def test_moves_are_drawn_as_asked_for() -> None:
    assert trainer().batches.moves is None and trainer().batches.draw_moves(0) is None
    both = drawn(trainer(shift=2, mirror=True), 4000)
    assert both.dtype == np.int32 and both.shape == (4000, 3)
    for column, values in ((0, 5), (1, 5), (2, 2)):
        found, counts = np.unique(both[:, column], return_counts=True)
        assert found.tolist() == ([-2, -1, 0, 1, 2] if values == 5 else [0, 1])
        expected = 4000 / values  # five standard deviations of a binomial count
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * (1 - 1 / values))
    assert abs(np.corrcoef(both.T)[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(4000)
    shifted, mirrored = drawn(trainer(shift=1), 50), drawn(trainer(mirror=True), 50)
    assert not shifted[:, 2].any() and shifted[:, :2].any()
    assert not mirrored[:, :2].any() and mirrored[:, 2].any()


def test_fine_tuning_sees_the_images_as_they_are_if_asked_to() -> None:
    moving, still = (
        trainer(shift=2, mirror=True, epochs=2, finetune_epochs=1, finetune_moves=moves) for moves in (True, False)
    )
    for step in range(9):  # three in an epoch
        np.testing.assert_array_equal(moves_at(still, step), moves_at(moving, step) * (step < 6))


def test_moves_are_a_function_of_seed_epoch_and_step() -> None:
    one, other, third = trainer(shift=2), trainer(shift=2), trainer(shift=2, seed=1)
    first = moves_at(one, 0)
    np.testing.assert_array_equal(first, moves_at(other, 0))
    np.testing.assert_array_equal(first, moves_at(one, 0))
    assert not np.array_equal(first, moves_at(third, 0))
    one.step()
    assert not np.array_equal(first, moves_at(one, 1))
    np.testing.assert_array_equal(moves_at(one, 1), moves_at(other, 1))


def test_a_step_sees_the_moved_images(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(shift=2, mirror=True)
    run.batches.begin(0)
    data, moves, index = run.data, moves_at(run, 0), run.batches.order[run.batches.rows(0)].copy()
    seen: list[Any] = []
    forward = svd.Sequential.forward
    monkeypatch.setattr(svd.Sequential, "forward", lambda self, x, how: seen.append(x.copy()) or forward(self, x, how))
    run.step()
    images = (data.x_train[index] / np.float32(255)).reshape(-1, 3, 6, 6).transpose(0, 2, 3, 1)
    wanted = [moved(image, *move) for image, move in zip(images, moves.tolist(), strict=True)]
    np.testing.assert_allclose(seen[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("stop", [2, 7])
def test_resuming_with_moved_images_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, stop: int
) -> None:
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    config = svd.TrainConfig(epochs=3, finetune_epochs=1, batch_size=20, shift=2, mirror=True)
    whole, broken, resumed, still = (image_net(backend) for _ in range(4))
    svd.fit(whole, image_data(), config, progress=False)
    svd.fit(still, image_data(), svd.TrainConfig(epochs=3, finetune_epochs=1, batch_size=20), progress=False)
    step = Trainer.step

    def stopping(self: Trainer) -> None:
        step(self)
        if self.progress.step == stop:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(svd.TrainingInterrupted):
        svd.fit(broken, image_data(), config, run_dir=tmp_path, progress=False)
    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(ValueError, match=r"another config \(differs in \['mirror', 'shift'\]: \[True, 2\] there"):
        others = svd.TrainConfig(epochs=3, finetune_epochs=1, batch_size=20)
        svd.fit(resumed, image_data(), others, run_dir=tmp_path, resume=True, progress=False)
    svd.fit(resumed, image_data(), config, run_dir=tmp_path, resume=True, progress=False)
    assert resumed.arena.params.tobytes() == whole.arena.params.tobytes()
    assert still.arena.params.tobytes() != whole.arena.params.tobytes()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("more", [{}, {"remove_above": 3.0}, {"shards": 2}], ids=str)
def test_images_of_one_channel_are_moved_before_they_are_flat(backend: str, more: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 256, (60, 5 * 6), dtype=np.uint8), np.arange(60) % 3
    data = Dataset("squares", x[:45], y[:45], x[45:], y[45:], (1, 5, 6), 3, "made here")
    found = []
    for shape in ((30,), (1, 5, 6)):
        layers = svd.Flatten(), svd.VariationalDense(30, 20), svd.ReLU(), svd.VariationalDense(20, 3)
        net = svd.Sequential(*layers, input_shape=shape, backend=backend)
        config = svd.TrainConfig(epochs=3, finetune_epochs=1, batch_size=20, shift=2, mirror=True, lr=0.05, **more)
        svd.fit(net, data, config, progress=False)
        found.append(net.arena.params.copy())
    np.testing.assert_array_equal(found[0], found[1])


def test_only_images_can_be_moved() -> None:
    x, y = np.zeros((6, 12), np.float32), np.arange(6) % 3
    data = Dataset("rows", x, y, x, y, None, 3, "made here")
    net = svd.Sequential(svd.VariationalDense(12, 3), backend="numpy")
    colours = Dataset("colours", x, y, x, y, (3, 2, 2), 3, "made here")
    for settings in ({"shift": 1}, {"mirror": True}):
        for images in (data, colours):
            with pytest.raises(ValueError, match=r"inputs have shape \(12,\); give Sequential input_shape"):
                Trainer(net, images, svd.TrainConfig(**settings))
    with pytest.raises(ValueError, match=r"shift: got 6, expected less than height and width of the images, \(6, 6\)"):
        trainer(shift=6)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"shift": -1}, ValueError),
        ({"shift": 1.5}, TypeError),
        ({"shift": True}, TypeError),
        ({"mirror": 1}, TypeError),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{next(iter(settings))}: got"):
        svd.TrainConfig(**settings)
