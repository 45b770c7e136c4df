"""Points of a sweep: every combination of the values of each number, or random draws from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_count, check_flag, check_number

MOST = 100_000  # runs of a sweep
_DIGITS = 4  # of a number that is drawn, so that the name of its folder is short and says all of it


@dataclass(frozen=True)
class Between:
    """A number that a random search draws from low to high.

    Parameters
    ----------
    low, high : float
    log : bool
        Draw its logarithm evenly, rather than the number itself; both ends must then be above 0.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        low, high = (check_number(name, getattr(self, name)) for name in ("low", "high"))
        if low >= high or (check_flag("log", self.log) and low <= 0):
            wanted = "0 < low < high, because log=True" if self.log else "low < high"
            raise SvdValueError(f"Between: got {low:g} and {high:g}, expected {wanted}")

    def draw(self, rng: np.random.Generator) -> float:
        """Draw one number, of four digits."""
        if self.log:
            number = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            number = rng.uniform(self.low, self.high)
        return float(f"{number:.{_DIGITS}g}")


def points(varied: Mapping[str, Any], samples: int | None, search_seed: int) -> list[dict[str, Any]]:
    """List the points of a sweep.

    Parameters
    ----------
    varied : mapping of name -> list of values, range, or Between
    samples : int or None
        None for all combinations, which need lists; otherwise so many random points, each number drawn on its own.
    search_seed : int

    Raises
    ------
    SvdValueError, SvdTypeError
        For a list that is empty or names a value twice, for a `Between` without `samples`, and for too many points.
    """
    for name, values in varied.items():
        if isinstance(values, Between):
            if samples is None:
                raise SvdValueError(f"{name}: got {values}, which needs `samples`, the number of random points")
            continue
        if not len(values):
            raise SvdValueError(f"{name}: got no values, expected at least one")
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise SvdValueError(f"{name}: got {twice[0]!r} more than once; the same numbers give the same run")
    if samples is None:
        lists = {name: list(values) for name, values in varied.items()}
        if math.prod(map(len, lists.values())) > MOST:
            raise SvdValueError(f"got more than {MOST:,} combinations; give `samples`, the number of random points")
        return [dict(zip(lists, chosen, strict=True)) for chosen in itertools.product(*lists.values())]
    count, rng = check_count("samples", samples, high=MOST), np.random.default_rng(search_seed)
    found = list[dict[str, Any]]()
    for _ in range(100 * count):  # a search over a few values cannot find as many points as it likes
        point = {name: _drawn(values, rng) for name, values in varied.items()}
        if point not in found:
            found.append(point)
        if len(found) == count:
            return found
    raise SvdValueError(f"samples: got {count:,}, but found only {len(found):,} different points; ask for fewer")


def _drawn(values: Between | Sequence[Any], rng: np.random.Generator) -> Any:
    return values.draw(rng) if isinstance(values, Between) else values[int(rng.integers(len(values)))]


def is_varied(value: Any) -> bool:
    """Whether an argument of a sweep is varied: a list, a range or a `Between`; anything else is one value."""
    return isinstance(value, list | range | Between)


def word(name: str, value: Any) -> str:
    """A number in the name of a folder, such as kl_weight=0.3."""
    if not isinstance(value, str | int | float | type(None)):
        raise SvdTypeError(f"{name}: got {value!r}; expected values that can stand in a folder's name: numbers, words")
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    if not all(char.isalnum() or char in "+-._" for char in text):
        raise SvdValueError(f"{name}: got {value!r}; expected letters and digits, since it names a folder")
    return f"{name}={text}"
