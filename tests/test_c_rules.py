"""The C code keeps to rules for small, dependable programs, as MISRA C does; clang agrees with its twin."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sparse_tools import NETWORKS
from test_c import DRIVER, EXPORTED, STRICT, scores, small_and_inputs

import svd_numpy as svd

LOOP = re.compile(
    r"for \((?:(?:uint16_t|unsigned) (\w+) = [^;]+)?; (\w+)(?: \+ \d+)? (?:<|<=|>) ([^;]+); \2(?:\+\+|--| \+= \d+)\) \{"
)
FUNCTION = re.compile(r"^(?:static )?\w[\w ]*?\*?(\w+)\([^;{]*\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FORBIDDEN = r"while|do|goto|setjmp|longjmp|malloc|calloc|realloc|free|alloca|union|break|continue"
CLANG = (
    [shutil.which("clang") or ""]
    if shutil.which("clang")
    else [sys.executable, "-m", "ziglang", "cc"] * (importlib.util.find_spec("ziglang") is not None)
)


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def body_after(text: str, start: int) -> str:
    """What stands between the brace that opens before `start` and the one that closes it."""
    depth, at = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[start : at - 1]


def changed(name: str, text: str) -> bool:
    """Whether a variable may be changed in a piece of code."""
    return bool(
        re.search(
            rf"(?<![\w.>]){name}\s*(?:[-+*/|&^]|<<|>>)?=[^=]|(?<![\w.>]){name}(?:\+\+|--)|(?:\+\+|--|&){name}\b(?!->)",
            text,
        )
    )


def faults(source: str) -> list[str]:
    """Where a source breaks the rules."""
    code = without_comments(source)
    found = [f"the word {word}" for word in re.findall(rf"\b(?:{FORBIDDEN})\b", code)]
    found += [
        f"includes {name}"
        for name in re.findall(r"#include (.*)", code)
        if name.strip() not in ('"net.h"', "<avr/pgmspace.h>")
    ]
    if len(LOOP.findall(code)) != len(re.findall(r"\bfor\b", code)):
        found.append("a loop whose end cannot be read off its head")
    for loop in LOOP.finditer(code):
        body = body_after(code, loop.end())
        bounds = re.findall(r"(?<![\w.>])([a-z]\w*)(?!\w|\()", loop[3])
        found += [f"a loop changes {name}" for name in (loop[2], *bounds) if changed(name, body)]
    functions = {match[1]: match[2] for match in FUNCTION.finditer(code)}
    calls = {
        name: {other for other in functions if re.search(rf"\b{other}\(", body)} for name, body in functions.items()
    }
    while leaves := [name for name in calls if not calls[name]]:
        calls = {name: callees - {*leaves} for name, callees in calls.items() if name not in leaves}
    return found + [f"{name} may call itself" for name in calls]


@pytest.mark.parametrize("numbers", ["integers", "floats"])
@pytest.mark.parametrize("name", EXPORTED)
def test_no_recursion_no_heap_and_every_loop_has_an_end(name: str, numbers: str, tmp_path: Path) -> None:
    small, x = small_and_inputs(name, "uint8")
    source = svd.export_c(small, tmp_path / "net", x, numbers=numbers).read_text(encoding="utf-8")
    assert faults(source) == []
    assert "net_run" in [match[1] for match in FUNCTION.finditer(without_comments(source))]
    if numbers == "integers":
        assert not re.search(r"\b(?:float|double)\b|\d\.\d", without_comments(source))


def test_the_rules_notice_what_breaks_them() -> None:
    def code(body: str, head: str = "") -> str:
        return f"{head}\nstatic int f(int n)\n{{\n{body}\n}}\n"

    assert faults(code("    for (unsigned i = 0; i < 3; i++) {\n        n++;\n    }")) == []
    assert faults(code("    while (n) {\n    }")) == ["the word while"]
    assert faults(code("    for (;;) {\n    }")) == ["a loop whose end cannot be read off its head"]
    assert faults(code("    for (unsigned i = 0; i < 3; i++) {\n        i = 0;\n    }")) == ["a loop changes i"]
    assert faults(code("    for (unsigned i = 0; i < n; i++) {\n        n += 1;\n    }")) == ["a loop changes n"]
    assert faults(code("    return f(n - 1);")) == ["f may call itself"]
    both = code("    return g(n);") + "static int g(int n)\n{\n    return f(n);\n}\n"
    assert faults(both) == ["f may call itself", "g may call itself"]
    assert faults(code("", "#include <stdlib.h>")) == ["includes <stdlib.h>"]


@pytest.mark.slow
@pytest.mark.skipif(not CLANG, reason="neither clang nor ziglang (pip install 'svd-numpy[clang]') is installed")
@pytest.mark.parametrize(
    "name", [name for name in EXPORTED if name in ("lenet-5", "lenet-5, mean", *list(NETWORKS)[:3])]
)
def test_clang_gives_the_bits_of_the_twin(name: str, tmp_path: Path) -> None:
    """Without a warning, optimised, and with undefined behaviour trapped."""
    small, x = small_and_inputs(name, "uint8")
    twin = svd.to_integers(small, x[:60])
    folder = svd.export_c(small, tmp_path / "net", x[:60]).parent
    (folder / "driver.c").write_text(DRIVER)
    for options in (["-O2"], ["-O1", "-fsanitize=undefined", "-fsanitize-trap=undefined"]):
        command = [*CLANG, *STRICT, "-Wvla", "-Wshadow", *options, "-o", "driver", "net.c", "driver.c"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = scores(folder / "driver", twin.input_bytes(x), "<i4")
        assert np.array_equal(found, twin.predict_integers(x))
