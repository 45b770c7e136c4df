"""Pictures of recurrent networks show the numbers they were given, and which gates do not move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex

import svd_numpy as svd
from svd_numpy import plots
from svd_numpy.cli import main as cli
from svd_numpy.sparse.recurrent import gates_left

NAMES = ("input i", "forget f", "candidate g", "output o")


def axes(figure: Any) -> list[Any]:
    """Its panels, typed loosely."""
    return list(figure.axes)


def history(nll: list[float], valid: list[float | None]) -> list[dict[str, Any]]:
    return [
        {"epoch": at + 1, "nll": one, "valid_nll": two} for at, (one, two) in enumerate(zip(nll, valid, strict=True))
    ]


def test_loss_curves_mark_the_best_epoch_of_every_network() -> None:
    runs = {
        "dense": history([3, 2, 1, 0.5], [2, 1.5, 1.7, 1.9]),
        "sparse": history([3, 2.5, 2, 1.8], [2, None, 1.6, 1.4]),
    }
    ax = axes(plots.loss_curves(runs))[0]
    solid, best, dashed = ax.lines[:3]
    np.testing.assert_array_equal(solid.get_ydata(), [2, 1.5, 1.7, 1.9])
    np.testing.assert_array_equal(dashed.get_ydata(), [3, 2, 1, 0.5])
    assert (*best.get_xdata(), *best.get_ydata()) == (2, 1.5)
    np.testing.assert_array_equal(ax.lines[3].get_xdata(), [1, 3, 4])
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["dense: best 1.500, last 1.900", "sparse: best 1.400, last 1.400"]


def test_shares_are_as_long_as_they_are() -> None:
    ax = axes(plots.shares_left({"lstm1, inputs": (25, 100), "words": (0, 1000), "dense1": (1, 2000)}))[0]
    assert [bar.get_width() for bar in ax.patches[3:]] == [25, 0.01, 0.05]
    written = [text.get_text() for text in ax.texts]
    assert written == ["25 of 100 (4.0x)", "0 of 1,000", "1 of 2,000 (2,000x)"]


def test_a_gate_map_paints_live_constant_and_dead() -> None:
    weights = np.array([[0, 5, 0], [0, 1, 2], [0, 0, 0], [0, 9, 0]])
    values, live = np.full((4, 3), 0.25), np.array([False, True, True])
    above, below = axes(plots.gate_map(weights, values, live, NAMES))
    colours = above.get_images()[0].get_array()  # units in the order 1, 2, 0
    constant, dead = to_hex("#E69F00"), to_hex(plots.COLOURS["dead"])
    painted = [[to_hex(cell) for cell in row] for row in colours]
    assert [row[2] for row in painted] == [dead] * 4
    assert [[cell == constant for cell in row[:2]] for row in painted] == [
        [False, True],
        [False] * 2,
        [True] * 2,
        [False, True],
    ]
    assert above.get_yticklabels()[2].get_text() == "candidate g: 0 depend, 2 constant"
    assert [line.get_xdata().size for line in below.lines] == [1, 0, 2, 1]


def test_words_stand_on_the_side_that_they_take() -> None:
    left, right = axes(plots.words_left({"bad": -2.0, "fine": 1.0, "dull": -0.5, "of$": 3.0}, 1))
    assert [label.get_text() for label in left.get_yticklabels()] == ["bad"]
    assert [label.get_text() for label in right.get_yticklabels()] == [r"of\$"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.loss_curves({}), "at least one"),
        (lambda: plots.loss_curves({"a": history([1], [None])}), "none of its 1 epochs has a valid_nll"),
        (lambda: plots.shares_left({"a": (3, 2)}), "got 3 left of 2"),
        (
            lambda: plots.gate_map(np.ones((4, 2)), np.ones((4, 3)), np.ones(2, bool), NAMES),
            r"got shapes \(4, 2\), \(4, 3\)",
        ),
        (lambda: plots.words_left({}), "got 0 words"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw: Any, message: str) -> None:
    with pytest.raises(svd.SvdValueError, match=message):
        draw()


@pytest.mark.parametrize("cell", [svd.VariationalLSTM, svd.VariationalGRU])
def test_gates_without_weights_stand_where_the_layer_has_them(cell: Any) -> None:
    layers = cell(5, 6, tokens=True, log_sigma2=-20), svd.VariationalDense(6, 5, log_sigma2=-20)
    model = svd.Sequential(*layers, backend="numpy", dtype="float64", input_shape=(7,))
    rng = np.random.default_rng(0)
    rnn: Any = model.layers[0]
    rnn.bias[:] = rng.standard_normal(rnn.bias.shape)
    rnn.log_sigma2[:, rng.permutation(rnn.log_sigma2.shape[1])[:9]] = 9
    model.parameters["dense1.log_sigma2"][2] = 9
    weights, values, live = gates_left(model)["lstm1" if cell is svd.VariationalLSTM else "gru1"]
    model.predict(rng.integers(0, 5, (4, 7)))
    seen = rnn._gates.reshape(-1, *weights.shape)  # what the forward pass has left there
    still = (weights == 0) & live
    assert still.any() and not (weights == 0).all()
    moving = np.ptp(seen, axis=0) > 1e-12
    known = still & np.isfinite(values)
    np.testing.assert_allclose(seen.mean(axis=0)[known], values[known], rtol=1e-12)
    assert moving[(weights > 0) & live].all() and not moving[known].any()


def test_a_report_draws_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "numpy")
    folder = tmp_path / "run"
    result = svd.train_sentiment(dataset="reviews", features=4, units=4, epochs=1, run_dir=folder, progress=False)
    assert cli.main(["report", str(folder)]) == 0
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"training_curves", "losses", "left", "gates_lstm1", "words"}
    assert result.plot("words").axes
    with pytest.raises(svd.SvdValueError, match="what: got 'filters'"):
        result.plot("filters")
