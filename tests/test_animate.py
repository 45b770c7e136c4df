"""Recordings and animations: frames are recorded, saved and drawn."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from PIL import Image

from svd_numpy.plots import animate, frames

THRESHOLD = 3.0


def record_run(epochs: int, *, units: int = 7, shape: tuple[int, ...] = (4, 5)) -> animate.FrameRecorder:
    rng = np.random.default_rng(2)
    recorder = animate.FrameRecorder(shape)
    size = (math.prod(shape), units)
    for epoch in range(1, epochs + 1):
        error = None if epoch == 1 else 0.02 + 0.1 / epoch
        recorder.add(epoch, rng.normal(size=size), rng.normal(size=size) + epoch, 3.0, error, 1 - 1 / epoch)
    return recorder


def test_a_frame_keeps_the_weights_to_one_part_in_254() -> None:
    rng = np.random.default_rng(3)
    theta, log_alpha = rng.normal(size=(20, 7)), rng.normal(3, 1, (20, 7))
    log_alpha[0] = THRESHOLD  # where a weight is kept
    recorder = animate.FrameRecorder((4, 5), max_units=6)
    recorder.add(1, theta, log_alpha, THRESHOLD, 0.5, 0.25)
    codes, scale = recorder.codes[0], recorder.scales[0]
    assert codes.shape == (6, 4, 5) and codes.dtype == np.uint8
    alive = (log_alpha <= THRESHOLD)[:, :6].T.reshape(6, 4, 5)
    np.testing.assert_array_equal(codes > 0, alive)
    restored = (codes.astype(float) - 128) / 127 * scale
    np.testing.assert_allclose(restored[alive], theta[:, :6].T.reshape(6, 4, 5)[alive], atol=scale / 254 * 1.0001)


def test_frames_survive_the_disk(tmp_path: Path) -> None:
    recorder = record_run(5)
    path = tmp_path / "frames.npz"
    path.write_bytes(b"an older file")
    recorder.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames.npz"]
    back = animate.FrameRecorder.load(path)
    assert (back.image_shape, back.max_units, len(back)) == ((4, 5), 100, 5)
    np.testing.assert_array_equal(np.stack(back.codes), np.stack(recorder.codes))
    for name in ("scales", "epochs", "test_errors", "sparsities"):
        np.testing.assert_array_equal(getattr(back, name), getattr(recorder, name))
    back.add(6, np.zeros((20, 7)), np.zeros((20, 7)), 3.0, None, 0.5)
    assert back.epochs == [1, 2, 3, 4, 5, 6]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    path = tmp_path / "frames.npz"
    record_run(2).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        record_run(3).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_resumed_run_replaces_its_later_frames() -> None:
    recorder = record_run(5)
    weights = np.ones((20, 7))
    with pytest.raises(ValueError, match=r"epoch 4 does not follow epoch 5; call drop_after\(3\)"):
        recorder.add(4, weights, weights, 3.0, 0.1, 0.5)
    recorder.drop_after(3)
    recorder.add(4, weights, weights, 3.0, 0.1, 0.5)
    assert recorder.epochs == [1, 2, 3, 4] and len(recorder.codes) == len(recorder.scales) == 4


@pytest.mark.parametrize("width", [320, 641])
def test_gif_has_every_frame_and_rests_on_the_last(tmp_path: Path, width: int) -> None:
    path = tmp_path / "run.gif"
    animate.render_gif(record_run(6), path, fps=20, width_px=width)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.gif"]
    with Image.open(path) as gif:
        assert gif.format == "GIF" and gif.width == width
        assert gif.n_frames == 6  # type: ignore[attr-defined]
        assert gif.info["loop"] == 0
        durations = []
        for index in range(6):
            gif.seek(index)
            durations.append(gif.info["duration"])
        assert durations[:-1] == [50] * 5 and durations[-1] >= 2000


def test_gif_paints_live_weights_by_sign_and_pruned_ones_dark(tmp_path: Path) -> None:
    recorder = animate.FrameRecorder((1, 2))
    theta = np.array([[1.0, -1.0], [1.0, 1.0]])
    for epoch, pruned in ((1, -9.0), (2, 9.0)):
        recorder.add(epoch, theta, np.array([[0.0, 0.0], [0.0, pruned]]), 3.0, 0.5, 0.5)
    animate.render_gif(recorder, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        gif.seek(1)
        pixels = np.asarray(gif.convert("RGB")).astype(int)
    factor = 320 // 5  # 2 units of 1 x 2 pixels, stacked, are 5 pixels high with seams; enlarged to fit half of 640
    places = ((1, 1), (3, 1), (3, 2))
    red, blue, dark = (pixels[64 + factor * y + factor // 2, 12 + factor * x + factor // 2] for y, x in places)
    assert red[0] > red[2] + 40 and blue[2] > blue[0] + 40 and dark.max() < 60


def test_gif_of_sixty_dense_frames_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "run.gif"
    rng = np.random.default_rng(4)
    recorder = animate.FrameRecorder((28, 28))
    noise, log_alpha = rng.normal(size=(61, 784, 1)), rng.uniform(0, 10, (784, 100))
    theta = rng.normal(size=(784, 100))
    for epoch in range(1, 61):
        drift = theta + 0.1 * noise[epoch]
        recorder.add(epoch, drift, log_alpha + epoch / 6 - 7, 3.0, 0.02, epoch / 61)
    animate.render_gif(recorder, path)
    assert path.stat().st_size < 3_000_000


def test_gif_of_a_first_frame_already_perfect_and_dead(tmp_path: Path) -> None:
    """No weight left, no error, images too large for the picture: still a GIF."""
    recorder = animate.FrameRecorder((3, 96, 96), max_units=16)
    weights = np.zeros((3 * 96 * 96, 20), dtype=np.float32)
    recorder.add(1, weights, np.full_like(weights, np.inf), 3.0, 0.0, 1.0)
    animate.render_gif(recorder, tmp_path / "a.gif", width_px=400)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.width == 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"theta": np.zeros((784, 7))}, r"theta has shape \(784, 7\)"),
        ({"log_alpha": np.zeros((20, 6))}, "log_alpha has shape"),
        ({"sparsity_total": 98.0}, "sparsity_total is 98.0"),
        ({"epoch": 2}, "does not follow"),
        ({"theta": np.full((20, 7), np.nan)}, "NaN"),
        ({"theta": np.zeros((20, 5)), "log_alpha": np.zeros((20, 5))}, "earlier frames show 7"),
    ],
)
def test_bad_frames_are_refused_and_not_recorded(changes: dict[str, Any], words: str) -> None:
    recorder = record_run(2)
    arguments: dict[str, Any] = {
        "epoch": 3,
        "theta": np.zeros((20, 7)),
        "log_alpha": np.zeros((20, 7)),
        "threshold": 3.0,
        "test_error": 0.1,
        "sparsity_total": 0.5,
    }
    with pytest.raises(ValueError, match=words):
        recorder.add(**(arguments | changes))
    assert len(recorder) == len(recorder.epochs) == len(recorder.scales) == 2


def test_bad_recorders_files_and_gif_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_shape"):
        animate.FrameRecorder((784,))
    with pytest.raises(ValueError, match="max_units is 0"):
        animate.FrameRecorder((4, 5), max_units=0)
    empty = animate.FrameRecorder((4, 5))
    with pytest.raises(ValueError, match="no frame is recorded"):
        empty.save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no frame is recorded"):
        animate.render_gif(empty, tmp_path / "a.gif")
    with pytest.raises(ValueError, match="fps is 0"):
        animate.render_gif(record_run(1), tmp_path / "a.gif", fps=0)
    with pytest.raises(ValueError, match="width_px is 100"):
        animate.render_gif(record_run(1), tmp_path / "a.gif", width_px=100)
    for content, words in (
        ({"x": 3}, "lacks schema, image_shape"),
        (dict.fromkeys(frames.NAMES, 3), "no frames of schema 1"),
    ):
        np.savez(tmp_path / "other.npz", **content)
        with pytest.raises(ValueError, match=words):
            animate.FrameRecorder.load(tmp_path / "other.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["other.npz"]


def damaged_copies(whole: bytes) -> dict[str, bytes]:
    """A file of frames, damaged in several ways."""
    array = io.BytesIO()
    np.save(array, np.arange(5))
    middle = len(whole) // 2
    return {
        "empty": b"",
        "text": b"these are no frames",
        "an array alone": array.getvalue(),
        "first half": whole[:middle],
        "last half": whole[middle:],
        "last byte gone": whole[:-1],
        "bytes in the middle": whole[: middle - 50] + bytes(100) + whole[middle + 50 :],
    }


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "frames.npz"
    record_run(5).save(path)
    for how, content in damaged_copies(path.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            animate.FrameRecorder.load(path)
        message = str(caught.value)
        assert str(path) in message and "delete it" in message and "pickle" not in message, how
    with pytest.raises(FileNotFoundError, match="nowhere"):
        animate.FrameRecorder.load(tmp_path / "nowhere.npz")
