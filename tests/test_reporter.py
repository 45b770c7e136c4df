"""Output that fails does not stop training."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import bits, make_config, make_data, make_net, run_log

import svd_numpy as svd
from svd_numpy.experiments.series import mean_sd
from svd_numpy.train import console


class Broken(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, error: Exception, terminal: bool) -> None:
        super().__init__()
        self.error, self.terminal, self.tries = error, terminal, 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.error

    def isatty(self) -> bool:
        return self.terminal


ERRORS = [
    OSError(28, "No space left on device"),
    BrokenPipeError(32, "Broken pipe"),
    ValueError("I/O operation on closed file"),
    UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_stream_that_fails_is_given_up_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, terminal: bool
) -> None:
    quiet, loud, stream = make_net(), make_net(), Broken(error, terminal)
    svd.fit(quiet, make_data(), make_config(), progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        svd.fit(loud, make_data(), make_config(), run_dir=tmp_path, progress=True)
    assert bits(loud) == bits(quiet) and len(run_log(tmp_path)) == 6
    assert stream.tries >= 1


@pytest.mark.parametrize("names", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_without_streams_training_says_nothing(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    """As in pythonw, services, and shells with `2>&-`."""
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(sys, name, None)
        assert len(svd.fit(make_net(), make_data(), make_config(), progress=True)) == 6


def test_an_error_that_is_no_fault_of_the_stream_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> dict[str, str]:
        raise KeyError("nll")

    monkeypatch.setattr(console, "describe", wrong)
    with pytest.raises(KeyError):
        svd.fit(make_net(), make_data(), make_config(), progress=True)


def test_tables_are_text_that_any_console_can_take() -> None:
    assert mean_sd([1.0, 2.0], 2, "+-").encode("ascii") == b"1.50 +- 0.71"
