"""The papers' rows: their figures, and a quick run beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.cli import main as cli
from svd_numpy.experiments import reproduce as module
from svd_numpy.experiments.published import BLOCKS, ROWS, dense_ratio
from svd_numpy.experiments.recipes import PUBLISHED

ROW_NAMES = ["300-100 dense", "300-100 magnitude"]
WORDS = ["--quick", "--epochs", "3", "--backend", "numpy", "--no-progress"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.measure == BLOCKS])
def test_compressions_of_dense_matrices_follow_from_the_live_units(name: str) -> None:
    row = ROWS[name]
    live = [int(units) for units in row.left.split("-")]
    if row.arch == "lenet-5":
        first, second, flat, units = live
        weights = 25 * first + 25 * first * second + flat * units + 10 * units
        assert row.compression == pytest.approx(430_500 / weights, rel=0.03)  # printed: 108 for 105.7
    else:
        full = (784, 300, 100, 10) if row.arch == "lenet-300-100" else (784, 500, 300, 10)
        assert row.compression == pytest.approx(dense_ratio(*live, 10, all_units=full), rel=1e-3)


def test_sparse_vd_has_the_same_row_as_in_its_results() -> None:
    for network, arch in (("300-100", "lenet-300-100"), ("lenet-5", "lenet-5")):
        row, paper = ROWS[f"{network} sparse-vd"], PUBLISHED[arch]
        assert (row.error, row.compression) == (paper.error, paper.compression)


def test_without_rows_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert "| 300-100 surgery | 1.99 | 56x | non-zeros | 98.2-98.2-94.5 |" in "\n".join(lines)


def test_a_quick_run_leaves_a_table_and_a_picture_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "--rows", *ROW_NAMES[:1], "--seeds", "0", "1", *WORDS, "--folder", str(tmp_path)]
    assert cli.main(words) == 0
    first = capsys.readouterr().out
    kept = (tmp_path / "300-100-dense-quick" / "seed-0" / "metrics.jsonl").read_bytes()
    words[2:3] = ROW_NAMES
    assert cli.main(words) == 0
    second = capsys.readouterr().out
    assert (tmp_path / "300-100-dense-quick" / "seed-0" / "metrics.jsonl").read_bytes() == kept
    rows = [line for line in second.splitlines() if line.startswith("| 300")]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in ROW_NAMES] and rows[0] in first
    assert "| 1.64 | 1x | non-zeros |" in rows[0] and "±" in rows[0] and "| 12.0 ± 0.0 |" in rows[1]
    assert "not on MNIST" in second
    table = (tmp_path / "reproduce.md").read_text()
    assert table.splitlines() == second.splitlines()[: len(table.splitlines())]
    assert (tmp_path / "reproduce.png").read_bytes().startswith(b"\x89PNG")


def test_rows_that_cannot_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "other", replace(ROWS["lenet-5 dense"], name="other", method="not here"))
    with pytest.raises(svd.SvdValueError, match=r"rows: got \['magic'\], expected some of \['300-100 dense'"):
        module.reproduce(["magic"], folder=tmp_path)
    with pytest.raises(svd.SvdValueError, match=r"rows: got \['lenet-5 dense'\], which cannot run on the digits"):
        module.reproduce(["lenet-5 dense"], quick=True, folder=tmp_path)
    with pytest.raises(svd.SvdValueError, match=r"rows: got \['other'\], which cannot run; expected"):
        module.reproduce(["other"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_picture_joins_ours_and_theirs() -> None:
    from svd_numpy.plots.evaluation import beside_published

    ax = beside_published({"a": [(0.02, 10.0), (0.03, 12.0)], "b": [(0.01, 1.0)]}, {"a": (0.02, 20.0)}).axes[0]
    stars = [np.asarray(line.get_xydata()) for line in ax.lines if line.get_marker() == "*"]
    assert [star.tolist() for star in stars if star.size] == [[[2.0, 20.0]]]
    assert [text.get_text() for text in ax.texts] == ["a", "b"]


def test_several_at_once_give_the_bits_of_one_after_the_other(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seeds": (0, 1), "quick": True, "epochs": 2, "backend": "numpy", "progress": False}
    for name, jobs in (("one", 1), ("two", 2)):
        module.reproduce(ROW_NAMES[:1], folder=tmp_path / name, jobs=jobs, **options)
    for seed in (0, 1):
        one, two = (tmp_path / name / "300-100-dense-quick" / f"seed-{seed}" for name in ("one", "two"))
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (tmp_path / "one" / "reproduce.png").stat().st_size > 0


def test_a_run_that_fails_elsewhere_is_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"quick": True, "epochs": 2, "backend": "numpy", "progress": False}
    with pytest.raises(svd.SvdError, match=r"1 of 1 runs failed: .*seed-0.*epochs: got -1"):
        module.reproduce(ROW_NAMES[:1], folder=tmp_path, jobs=2, **{**options, "epochs": -1})
