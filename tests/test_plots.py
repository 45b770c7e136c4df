"""Figures show the numbers they were given."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from svd_numpy import plots

THRESHOLD = 3.0
LAYERS = ("dense1", "dense2")


def make_history(epochs: int = 12, finetune: int = 3) -> list[dict[str, Any]]:
    records = []
    for epoch in range(1, epochs + finetune + 1):
        share = epoch / (epochs + finetune + 1)
        records.append(
            {
                "schema": 1,
                "epoch": epoch,
                "stage": "variational" if epoch <= epochs else "finetune",
                "seconds": 2.0 * epoch,
                "nll": 0.3 / epoch,
                "kl": 1e5 / epoch,
                "kl_weight": min(1.0, (epoch - 1) / 5),
                "lr": 1e-3 / epoch,
                "train_error": 0.05 / epoch,
                "test_error": None if epoch % 3 == 0 else 0.06 / epoch + 0.01,
                "test_nll": None if epoch % 3 == 0 else 0.4 / epoch,
                "sparsity": {"dense1": share, "dense2": share / 2},
                "compression": 1 / (1 - share),
                "non_finite": 0.0,
            }
        )
    return records


def make_theta(seed: int = 0) -> np.ndarray:
    """Masked weights (20, 7) for images of 4 x 5: units 2 and 5 dead, input 0 unused."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(20, 7)) * (rng.random((20, 7)) < 0.6)
    theta[:, [2, 5]] = 0.0
    theta[0] = 0.0
    return theta


def make_log_alphas() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"dense1": rng.normal(4, 3, (20, 7)), "dense2": rng.normal(1, 2, (7, 3))}


def line(ax: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Data of the line with this label; in the legend, two spaces and a number may follow it."""
    found = [one for one in ax.get_lines() if str(one.get_label()).split("  ")[0] == label]
    assert len(found) == 1, (label, [one.get_label() for one in ax.get_lines()])
    return np.asarray(found[0].get_xdata()), np.asarray(found[0].get_ydata())


def picture(ax: Any) -> np.ndarray:
    """Values of the image on an axes, NaN where blank."""
    filled: np.ndarray = np.ma.filled(ax.get_images()[0].get_array(), np.nan)
    return filled


def column(history: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([np.nan if record[key] is None else record[key] for record in history])


def texts(figure: Figure) -> str:
    return "\n".join([figure.get_suptitle(), *(ax.get_title(loc) for ax in figure.axes for loc in ("left", "center"))])


# ------------------------------------------------------------------------------------------- training curves


def test_training_curves_draw_the_history() -> None:
    history = make_history()
    figure = plots.training_curves(history, title="a run")
    error, nll, kl, sparsity, compression, schedule, lr = figure.axes
    assert figure.get_suptitle() == "a run"
    known = np.isfinite(column(history, "test_error"))
    epochs = column(history, "epoch")
    for ax, label, key, scale in (
        (error, "train", "train_error", 100),
        (error, "test", "test_error", 100),
        (nll, "train", "nll", 1),
        (nll, "test", "test_nll", 1),
        (kl, "KL", "kl", 1),
        (compression, "all / kept", "compression", 1),
        (schedule, "KL weight", "kl_weight", 1),
    ):
        x, y = line(ax, label)
        where = known if key.startswith("test") else np.ones(len(history), bool)
        np.testing.assert_array_equal(x, epochs[where])
        np.testing.assert_allclose(y, scale * column(history, key)[where], rtol=1e-15)
    _, weighted = line(kl, r"KL weight $\times$ KL")
    np.testing.assert_allclose(weighted, column(history, "kl") * column(history, "kl_weight"))
    np.testing.assert_allclose(np.asarray(lr.get_lines()[0].get_ydata()), column(history, "lr"))
    for name in LAYERS:
        _, share = line(sparsity, name)
        np.testing.assert_allclose(share, [100 * record["sparsity"][name] for record in history])


def test_living_weights_fall_beside_the_time_of_a_step() -> None:
    history = [
        {**record, "living": 1000 // record["epoch"], "ms_per_step": 2 / record["epoch"]} for record in make_history()
    ]
    living, milliseconds = plots.living_weights(history, title="a run").axes
    assert living.get_title(loc="left").startswith("Living weights: 1,000 to ")
    assert milliseconds.get_title(loc="left").startswith("Milliseconds per step: 2.00 to ")
    for ax, key in ((living, "living"), (milliseconds, "ms_per_step")):
        assert ax.get_lines()[0].get_ydata().tolist() == [record[key] for record in history]
        assert ax.get_yscale() == "log"


def test_training_curves_name_every_axis_and_unit() -> None:
    figure = plots.training_curves(make_history())
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == [
        "error (%)",
        "NLL (nats / example)",
        "KL (nats)",
        "pruned (%)",
        "all weights / kept weights",
        "KL weight (solid)",
        "learning rate (dashed)",
    ]
    assert [ax.get_xlabel() for ax in figure.axes[4:6]] == ["epoch", "epoch"]
    assert all(ax.get_title("left") for ax in figure.axes[:6])
    assert figure.axes[4].get_yscale() == "log"


def test_finetuning_is_shaded_over_its_epochs() -> None:
    def shades(history: list[dict[str, Any]]) -> list[Any]:
        error = plots.training_curves(history).axes[0]
        return [patch.get_extents().transformed(error.transData.inverted()) for patch in error.patches]

    (span,) = shades(make_history(epochs=12, finetune=3))
    assert (span.x0, span.x1) == pytest.approx((12.5, 15.5))
    assert shades(make_history(epochs=4, finetune=0)) == []


@pytest.mark.parametrize("layers", [1, 7, 17])
def test_curves_of_one_epoch_and_of_many_layers(layers: int) -> None:
    (record,) = make_history(epochs=1, finetune=0)
    record.update(sparsity={f"conv{i}": 0.1 for i in range(layers)}, test_error=None, test_nll=None)
    record.update(train_error=0.0, lr=0.0, kl=0.0)
    figure = plots.training_curves([record])
    legend = figure.axes[3].get_legend()
    assert legend is not None and len(legend.get_texts()) == layers


def test_layout_leaves_no_text_over_text() -> None:
    """Titles and labels lie within the page and do not overlap."""
    history = make_history()
    figures = [
        plots.training_curves(history, title="a run"),
        plots.log_alpha_histogram(make_log_alphas(), THRESHOLD),
        plots.summary_figure(history, make_log_alphas(), make_theta(), THRESHOLD, (4, 5), "a run"),
    ]
    for figure in figures:
        canvas: Any = FigureCanvasAgg(figure)
        renderer = canvas.get_renderer()
        boxes = []
        for ax in figure.axes:
            for text in (ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label):  # type: ignore[attr-defined]
                if text.get_text():
                    boxes.append((text.get_text(), text.get_window_extent(renderer)))
        page = figure.bbox
        for index, (name, box) in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1, name
            for other, other_box in boxes[index + 1 :]:
                assert not box.overlaps(other_box), (name, other)


# ------------------------------------------------------------------------------------------------- histogram


def test_histogram_counts_every_weight_and_keeps_those_at_the_threshold() -> None:
    log_alphas = make_log_alphas()
    log_alphas["dense1"].flat[:4] = [np.inf, -np.inf, THRESHOLD, np.nextafter(np.float32(THRESHOLD), np.float32(9))]
    figure = plots.log_alpha_histogram(log_alphas, THRESHOLD)
    assert len(figure.axes) == len(log_alphas)
    for ax, (name, values) in zip(figure.axes, log_alphas.items(), strict=True):
        (mark,) = ax.get_lines()
        assert np.asarray(mark.get_xdata()).tolist() == [THRESHOLD, THRESHOLD]
        kept, pruned = ax.containers
        assert sum(bar.get_height() for bar in kept) == np.sum(values <= THRESHOLD)
        assert sum(bar.get_height() for bar in pruned) == np.sum(values > THRESHOLD)
        assert max(bar.get_x() + bar.get_width() for bar in kept) == pytest.approx(THRESHOLD)
        share = 100 * np.mean(values > THRESHOLD)
        assert ax.get_title("left").startswith(f"{name}: {share:.1f} % pruned")
    assert "alpha" in figure.axes[-1].get_xlabel()


def test_histogram_of_layers_all_on_one_side() -> None:
    figure = plots.log_alpha_histogram({"alive": np.full(5, -8.0), "dead": np.full(5, np.inf)}, THRESHOLD)
    assert "alive: 0.0 % pruned" in texts(figure) and "dead: 100.0 % pruned" in texts(figure)


# --------------------------------------------------------------------------------------------- weight images


def test_receptive_fields_show_the_weights_of_the_densest_units() -> None:
    theta = make_theta()
    figure = plots.receptive_fields(theta, (4, 5))
    mosaic = picture(figure.axes[0])
    order = np.argsort(-np.count_nonzero(theta, axis=0), kind="stable")
    for index, unit in enumerate(order):
        top, left = (index // 3) * 5 + 1, (index % 3) * 6 + 1
        tile = mosaic[top : top + 4, left : left + 5]
        if unit in (2, 5):
            assert np.isnan(tile).all()
        else:
            np.testing.assert_array_equal(tile, theta[:, unit].reshape(4, 5))
    assert "dead units: 2 of 7" in texts(figure)
    low, high = figure.axes[0].get_images()[0].get_clim()
    assert low == -high < 0
    fewer = plots.receptive_fields(theta, (4, 5), n=4)
    assert "4 of 7 hidden units" in texts(fewer) and "dead units: 2 of 7" in texts(fewer)


def test_weight_images_sum_channels() -> None:
    theta = make_theta()
    mosaic = picture(plots.receptive_fields(theta, (2, 2, 5), n=1).axes[0])
    best = int(np.argmax(np.count_nonzero(theta, axis=0)))
    np.testing.assert_allclose(mosaic[1:3, 1:6], theta[:, best].reshape(2, 2, 5).sum(axis=0), rtol=1e-12)
    importance = picture(plots.pixel_importance(theta, (2, 2, 5)).axes[0])
    assert np.nansum(importance) == np.count_nonzero(theta)


def test_pixel_importance_counts_and_sums() -> None:
    theta = make_theta()
    figure = plots.pixel_importance(theta, (4, 5))
    counts, sums = (picture(ax) for ax in figure.axes[:2])
    survivors = np.count_nonzero(theta, axis=1).reshape(4, 5)
    np.testing.assert_array_equal(np.nan_to_num(counts), survivors)
    np.testing.assert_allclose(np.nan_to_num(sums), np.abs(theta).sum(axis=1).reshape(4, 5))
    assert np.isnan(counts[0, 0])
    assert f"{np.sum(survivors == 0)} of 20 pixels" in texts(figure)
    assert {ax.get_ylabel() for ax in figure.axes} == {
        "pixel row",
        "surviving weights per pixel",
        r"sum of $|\theta|$ per pixel",
    }


def test_a_network_without_survivors_can_be_drawn() -> None:
    theta = np.zeros((20, 7))
    assert "dead units: 7 of 7" in texts(plots.receptive_fields(theta, (4, 5)))
    assert "20 of 20 pixels" in texts(plots.pixel_importance(theta, (4, 5)))


def test_summary_figure_holds_the_whole_story() -> None:
    history, log_alphas, theta = make_history(), make_log_alphas(), make_theta()
    figure = plots.summary_figure(history, log_alphas, theta, THRESHOLD, (4, 5), "a run")
    shown = texts(figure)
    for words in ("a run", "Error: 1.43 % on the test set", "Weights pruned", "dead units: 2 of 7"):
        assert words in shown
    for name, values in log_alphas.items():
        assert f"{name}: {100 * np.mean(values > THRESHOLD):.1f} % pruned" in shown


# -------------------------------------------------------------------------------- figures as good neighbours


def test_figures_leave_no_trace_and_show_themselves_in_notebooks() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = plots.pixel_importance(make_theta(), (4, 5))
    assert isinstance(figure, Figure)
    assert dict(matplotlib.rcParams) == before
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_neither_import_nor_drawing_touches_pyplot() -> None:
    code = (
        "import sys; from svd_numpy import plots; import numpy as np\n"
        "assert 'matplotlib' not in sys.modules and 'PIL' not in sys.modules\n"
        "plots.receptive_fields(np.eye(4), (2, 2))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ bad inputs


def changed(**changes: Any) -> list[dict[str, Any]]:
    history = make_history(epochs=3, finetune=0)
    history[1].update(changes)
    return history


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([], "history is empty"),
        ([{"epoch": 1}], "record 0 of the history has no"),
        (changed(epoch=1), "epochs must increase"),
        (changed(stage="warmup"), "stage 'warmup'"),
        (changed(sparsity={"dense9": 0.5}), "dense9"),
    ],
)
def test_bad_history_is_refused(history: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plots.training_curves(history)
    with pytest.raises(ValueError, match=words):
        plots.summary_figure(history, make_log_alphas(), make_theta(), THRESHOLD, (4, 5))


def test_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'conv1'; the history has only \['dense1', 'dense2'\]"):
        plots.summary_figure(make_history(), {"conv1": np.zeros(3)}, make_theta(), THRESHOLD, (4, 5))


@pytest.mark.parametrize(
    ("log_alphas", "threshold", "words"),
    [
        ({}, 3.0, "log_alphas is empty"),
        ({"a": np.array([])}, 3.0, "layer 'a' is empty"),
        ({"a": np.array([np.nan])}, 3.0, "holds NaN"),
        ({"a": np.zeros(3)}, math.inf, "threshold is inf"),
    ],
)
def test_bad_log_alphas_are_refused(log_alphas: dict[str, np.ndarray], threshold: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plots.log_alpha_histogram(log_alphas, threshold)


@pytest.mark.parametrize("draw", [plots.receptive_fields, plots.pixel_importance])
@pytest.mark.parametrize(
    ("theta", "shape", "words"),
    [
        (make_theta(), (28, 28), "does not fit theta with 20 inputs"),
        (make_theta(), (20,), "expected \\(H, W\\)"),
        (np.zeros(20), (4, 5), "expected a matrix"),
        (np.full((20, 2), np.nan), (4, 5), "NaN"),
    ],
)
def test_bad_weights_are_refused(draw: Any, theta: np.ndarray, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw(theta, shape)


def test_drawing_no_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        plots.receptive_fields(make_theta(), (4, 5), n=0)


RUNS = {"KL weight 0.5": [(0.010, 60.0), (0.012, 70.0)], "KL weight 2": [(0.02, 200.0), (0.03, 220.0)]}


def test_error_against_compression_shows_runs_and_means() -> None:
    ax = plots.error_against_compression(RUNS, (0.0192, 68.0), title="cost").axes[0]
    first, second, means, published = ([*zip(*line.get_data(), strict=True)] for line in ax.lines)
    np.testing.assert_allclose(first, [(1.0, 60), (1.2, 70)])
    np.testing.assert_allclose(second, [(2.0, 200), (3.0, 220)])
    np.testing.assert_allclose(means, [(1.1, 65), (2.5, 210)])
    np.testing.assert_allclose(published, [(1.92, 68)])
    assert [text.get_text() for text in ax.texts] == list(RUNS)
    low, high = ax.get_ylim()
    assert low < 60 < 220 < high


@pytest.mark.parametrize("runs", [{}, {"a": []}, {"a": [(0.1, math.inf)]}, {"a": [(math.nan, 1.0)]}])
def test_error_against_compression_of_nothing_is_refused(runs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected groups of"):
        plots.error_against_compression(runs)
