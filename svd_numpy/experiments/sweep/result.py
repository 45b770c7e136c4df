"""The table and the picture of a sweep: what each point gives, which points nothing beats, which numbers matter."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, as_path
from svd_numpy.experiments.series import mean_sd
from svd_numpy.experiments.sweep.task import FIGURES

_GROUPS = 4  # into which the values of a number are divided, where there are more


class SweepResult:
    """What the runs of a sweep came to; `print` shows it as a table, best points first.

    Attributes
    ----------
    rows : list of dict
        One for each finished run: the varied numbers, `seed`, and `valid_error`, `valid_nll` (of the images that were
        held out), `compression`, `seconds`.
    varied : list of str
        Names of the varied numbers.
    failed : dict of folder -> str
        The runs that ended with an error, and what it says.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], varied: Sequence[str], failed: Mapping[str, str]) -> None:
        self.rows, self.varied, self.failed = [dict(row) for row in rows], list(varied), dict(failed)

    @property
    def points(self) -> list[dict[str, Any]]:
        """Means over the seeds of every point, by error; `best` says that no other point beats it in both measures."""
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault(tuple(row[name] for name in self.varied), []).append(row)
        found = [
            dict(zip(self.varied, point, strict=True))
            | {name: statistics.mean(row[name] for row in rows) for name in FIGURES}
            | {"runs": rows}
            for point, rows in groups.items()
        ]
        for one in found:
            one["best"] = not any(
                other["valid_error"] <= one["valid_error"]
                and other["compression"] >= one["compression"]
                and (other["valid_error"], other["compression"]) != (one["valid_error"], one["compression"])
                for other in found
            )
        return sorted(found, key=lambda one: (one["valid_error"], -one["compression"]))

    def importance(self, figure: str = "valid_error") -> dict[str, float]:
        """Say how much each varied number decides, from 0 to 1.

        That is the share of the variance between points that lies between the means of the points of one value (or of
        one quarter of the values, where a number has more than four): eta squared, of a one-way analysis of variance.

        Parameters
        ----------
        figure : "valid_error", "valid_nll", "compression" or "seconds"
        """
        if figure not in FIGURES:
            raise SvdValueError(f"figure: got {figure!r}, expected one of {', '.join(FIGURES)}")
        points = self.points
        y = np.array([point[figure] for point in points], np.float64)
        if figure == "compression":
            y = np.log(y)
        total = float(((y - y.mean()) ** 2).sum()) if len(y) else 0.0
        found = {}
        for name in self.varied:
            group = _grouped([point[name] for point in points])
            means = {number: y[group == number].mean() for number in set(group.tolist())}
            between = sum(float((group == number).sum() * (mean - y.mean()) ** 2) for number, mean in means.items())
            found[name] = between / total if total > 0 else 0.0
        return found

    def __str__(self) -> str:
        if not self.rows:
            return "\n".join(["no run has finished", *self._failures()])
        width = max([8, *(len(name) + 2 for name in self.varied)])
        head = [f"{name:>{width}}" for name in self.varied] + [
            f"{'runs':>6}{'error %':>18}{'nll':>18}{'compression':>18}"
        ]
        lines = ["held-out training images; * no other point beats it in error and compression", "".join(head)]
        for point in self.points:
            runs = point["runs"]
            cells = [f"{_word(point[name]):>{width}}" for name in self.varied]
            error = mean_sd([100 * row["valid_error"] for row in runs], 2, "+-")
            nll = mean_sd([row["valid_nll"] for row in runs], 4, "+-")
            size = mean_sd([row["compression"] for row in runs], 1, "+-")
            lines.append(f"{''.join(cells)}{len(runs):>6}{error:>18}{nll:>18}{size:>18}{' *' if point['best'] else ''}")
        if len(self.points) > 1:
            shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.importance().items())
            lines.append(f"share of the variance of the error: {shares}")
        return "\n".join([*lines, *self._failures()])

    def _failures(self) -> list[str]:
        return [f"failed: {Path(folder).name}: {said}" for folder, said in self.failed.items()]

    def plot(self) -> Any:
        """Draw error against compression of all points, and what each number decides. Returns a Figure."""
        from svd_numpy.plots import sweep_points

        return sweep_points(
            [(point["valid_error"], point["compression"], point["best"]) for point in self.points],
            {figure: self.importance(figure) for figure in ("valid_error", "compression")} if self.varied else {},
        )

    def save(self, run_dir: str | Path) -> None:
        """Write sweep.md and sweep.png into `run_dir`."""
        from svd_numpy.files.atomic import replacing, write_atomic
        from svd_numpy.plots.picture import try_to_draw

        with replacing(as_path("run_dir", run_dir), ("sweep.png", "sweep.md")) as folder:
            write_atomic(folder / "sweep.md", f"```text\n{self}\n```\n".encode())
            if self.rows:
                try_to_draw(self.plot, folder / "sweep.png")


def _grouped(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Number the groups of values: each value, or each quarter where there are more than four numbers."""
    kinds = sorted(
        set(values), key=lambda value: (isinstance(value, str), value is None, value if value is not None else 0)
    )
    ranks = np.array([kinds.index(value) for value in values])
    if len(kinds) <= _GROUPS:
        return ranks
    return np.minimum(ranks * _GROUPS // len(kinds), _GROUPS - 1)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
