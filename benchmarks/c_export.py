"""Networks as C: bytes, error, and what a prediction costs on this machine and on simulated microcontrollers.

    python benchmarks/c_export.py RUN [RUN ...]

Each run folder is exported in whole numbers. All test images pass through the C code compiled for this machine, and its
scores must be those of the NumPy twin; on the simulated chips, those of some images must. Tools that are missing leave
their columns empty. On Debian they are: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
gcc-avr avr-libc simavr. With emlearn (pip install emlearn), one of its networks is measured beside them. Writes
results/c_export.md and c_export.json.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from c_peers import measure_emlearn
from machine import describe, one_line

import svd_numpy as svd
from svd_numpy.experiments.run_files import need, read_result, recorded_dataset

HERE = Path(__file__).parent
CHIPS = HERE / "chips"
CALIBRATION = 2000  # training images
ARM_IMAGES, AVR_IMAGES = 500, 10
TICK = 40  # instructions, see chips/cortex_m.c
CLOCK = 16e6  # Hz, of the ATmega328P
AVR_RAM = 1900  # bytes of its 2,048 that leave room for the stack; a larger network runs on the ATmega1284P
CORTEX = {"cortex-m0": "Cortex-M0", "cortex-m3": "Cortex-M3", "cortex-m4": "Cortex-M4"}
# The README of BitNetMCU, January 2026: digits scaled down to 16 x 16, on a CH32V002 at 48 MHz.
PUBLISHED = (
    ("BitNetMCU, convolutions, 16x16", 0.94, "5.4 kB of weights", "785 k cycles"),
    ("BitNetMCU, convolutions, 16x16", 1.08, "3.2 kB of weights", "686 k cycles"),
    ("BitNetMCU, fully connected, 16x16", 0.98, "12.3 kB of weights", "528 k cycles"),
)


def call(*words: Any, data: bytes | None = None, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command that must succeed."""
    done = subprocess.run([str(word) for word in words], input=data, capture_output=True, cwd=folder, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed: {done.stderr.decode()[-2000:]}")
    return done


def object_bytes(folder: Path, compiler: str, *options: str) -> dict[str, int]:
    """Bytes of flash and RAM of net.c alone, compiled for size."""
    prefix = compiler.removesuffix("gcc")
    call(compiler, "-std=c99", "-Os", "-fno-common", *options, "-c", "net.c", "-o", "net.o", folder=folder)
    text, data, bss = map(int, call(f"{prefix}size", "net.o", folder=folder).stdout.split()[6:9])
    return {"flash": text + data, "ram": data + bss}


def on_host(folder: Path, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Scores of all images, and the median of the microseconds per image."""
    call("gcc", "-std=c99", "-O2", "-I.", "net.c", CHIPS / "host.c", "-o", "host", "-lm", folder=folder)
    done = call(folder / "host", data=images.tobytes())
    return np.frombuffer(done.stdout, np.int32).reshape(len(images), -1), float(
        np.median(np.array(done.stderr.split(), float))
    )


def write_images(folder: Path, images: np.ndarray) -> None:
    """Write images as a header for the programs in chips/."""
    rows = ",\n".join("{" + ",".join(map(str, row)) + "}" for row in images)
    text = f"#define COUNT {len(images)}\nstatic const uint8_t images[COUNT][NET_INPUTS] IN_FLASH = {{\n{rows}\n}};\n"
    (folder / "images.h").write_text(text)


def printed(text: str, wanted: np.ndarray) -> float:
    """Compare the scores that a chip printed; return its mean time."""
    rows = np.array([[int(word) for word in line.split()] for line in text.splitlines() if line.strip()])
    if not (np.array_equal(rows[:, 2:], wanted) and np.array_equal(rows[:, 0], wanted.argmax(axis=1))):
        raise RuntimeError("the simulated chip gives other scores than the NumPy twin")
    return float(rows[:, 1].mean())


def on_cortex(folder: Path, core: str, images: np.ndarray, wanted: np.ndarray) -> float:
    """Instructions per image; code for any core runs on QEMU's Cortex-M3 or, with its instructions, Cortex-M4."""
    write_images(folder, images)
    board = "mps2-an386" if core == "cortex-m4" else "mps2-an385"
    call(
        "arm-none-eabi-gcc", "-std=c99", f"-mcpu={core}", "-mthumb", "-Os", "--specs=rdimon.specs", "-I.", "-T",
        CHIPS / "cortex_m.ld", "net.c", CHIPS / "cortex_m.c", "-o", "arm.elf", "-lm", folder=folder,
    )  # fmt: skip
    done = call(
        "qemu-system-arm", "-M", board, "-nographic", "-monitor", "none", "-serial", "none", "-icount", "shift=0",
        "-semihosting-config", "enable=on,target=native", "-kernel", "arm.elf", folder=folder,
    )  # fmt: skip
    return TICK * printed(done.stdout.decode(), wanted)


def on_avr(folder: Path, chip: str, images: np.ndarray, wanted: np.ndarray) -> float:
    """Cycles per image."""
    write_images(folder, images)
    call("avr-gcc", "-std=gnu99", "-Os", f"-mmcu={chip}", "-I.", "net.c", CHIPS / "avr.c", "-o", "avr.elf",
         folder=folder)  # fmt: skip
    done = call("simavr", "-m", chip, "-f", int(CLOCK), "avr.elf", folder=folder)
    plain = re.sub(r"\x1b\[\d*m", "", (done.stdout + done.stderr).decode(errors="replace"))
    lines = [line.rstrip(". ") for line in plain.splitlines() if re.fullmatch(r"\d [-\d ]+\.*\s*", line)]
    return printed("\n".join(lines), wanted)


def measure(run: Path, data_dir: Path | None) -> dict[str, Any]:
    """Export one run and take all figures of it."""
    data, facts = svd.load(recorded_dataset(run), data_dir), read_result(run)
    small = svd.compress(svd.Sequential.load(need(run / "model.safetensors")))
    calibration = data.x_train[:CALIBRATION]
    twin = svd.to_integers(small, calibration)
    images, wanted = twin.input_bytes(data.x_test), twin.predict_integers(data.x_test)
    floats = small.predict(data.x_test).argmax(axis=1)
    found: dict[str, Any] = {
        "run": run.name,
        "arch": facts.get("arch", run.name),
        "training": training(facts),
        "weights": sum(op.weights.kept for op in small.ops if hasattr(op, "weights")),
        "float_error": 100 * float(np.mean(floats != data.y_test)),
        "error": 100 * float(np.mean(wanted.argmax(axis=1) != data.y_test)),
        "agreement": 100 * float(np.mean(wanted.argmax(axis=1) == floats)),
        "largest_difference": twin.error,
        "images": len(images),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = svd.export_c(small, Path(name) / "net", calibration).parent
        scores, found["host_us"] = on_host(folder, images)
        if not np.array_equal(scores, wanted):
            raise RuntimeError(f"{run}: the C code gives other scores than the NumPy twin")
        found["host"] = object_bytes(folder, "gcc")
        if shutil.which("arm-none-eabi-gcc"):
            for core in CORTEX:
                found[core] = object_bytes(folder, "arm-none-eabi-gcc", f"-mcpu={core}", "-mthumb")
                if shutil.which("qemu-system-arm"):
                    count = ARM_IMAGES if core == "cortex-m3" else ARM_IMAGES // 10
                    found[core]["instructions"] = on_cortex(folder, core, images[:count], wanted[:count])
        if shutil.which("avr-gcc"):
            found["avr"] = object_bytes(folder, "avr-gcc", "-mmcu=atmega328p")
            chip = "atmega328p" if found["avr"]["ram"] < AVR_RAM else "atmega1284p"
            if shutil.which("simavr"):
                found["avr"]["chip"] = chip
                found["avr"]["cycles"] = on_avr(folder, chip, images[:AVR_IMAGES], wanted[:AVR_IMAGES])
    return found


def training(facts: dict[str, Any]) -> str:
    """What sets a run's training apart from the recipe `default`."""
    weight = facts.get("kl_weight", 1)
    start = ", from the weights of another run" if facts.get("init_from") else ""
    return f"{facts.get('epochs')} epochs{start}{f', KL weight {weight:g}' if weight != 1 else ''}"


def measure_peers(run: Path, data_dir: Path | None) -> list[dict[str, Any]]:
    """Measure what others make of the data of a run, where it can be had."""
    if importlib.util.find_spec("emlearn") is None:
        return []
    data = svd.load(recorded_dataset(run), data_dir)
    with tempfile.TemporaryDirectory() as folder:
        return [measure_emlearn(data, Path(folder), on_host, on_cortex, object_bytes)]


def table(runs: list[dict[str, Any]], peers: list[dict[str, Any]]) -> list[str]:
    """Rows of all runs, and of what others have published."""
    lines = [
        "| network | weights | error %, floats | error %, C | same class % | this machine, µs |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        lines.append(
            f"| {run['arch']}, {run['training']} | {run['weights']:,} | {run['float_error']:.2f} "
            f"| {run['error']:.2f} | {run['agreement']:.2f} | {run['host_us']:.0f} |"
        )
    for peer in peers:
        lines.append(
            f"| {peer['name']} | {peer['weights']:,} | | {peer['error']:.2f} | {peer['agreement']:.2f} "
            f"| {peer['host_us']:.0f} |"
        )
    lines += [
        "",
        "| network | for | flash, bytes | RAM, bytes, input included | per image |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        for key, chip in {"host": "this machine", **CORTEX, "avr": "AVR"}.items():
            if key in run:
                cost = run[key]
                what = f"{cost['instructions']:,.0f} instructions" if "instructions" in cost else ""
                if "cycles" in cost:
                    chip = cost["chip"].replace("atmega", "ATmega").replace("p", "P")
                    what = f"{cost['cycles']:,.0f} cycles, {1e3 * cost['cycles'] / CLOCK:.1f} ms at 16 MHz"
                lines.append(f"| {run['arch']} | {chip} | {cost['flash']:,} | {cost['ram']:,} | {what} |")
    for peer in peers:
        if "flash" in peer:
            what = f"{peer['instructions']:,.0f} instructions" if "instructions" in peer else ""
            lines.append(f"| {peer['name']} | Cortex-M3 | {peer['flash']:,} | {peer['ram']:,} | {what} |")
    for name, error, size, cost in PUBLISHED:
        lines.append(f"| *published: {name}, error {error:.2f} %* | CH32V002 | {size} | | {cost} |")
    return lines


def write(runs: list[dict[str, Any]], peers: list[dict[str, Any]], names: list[str]) -> None:
    """Write the results as JSON and as a table."""
    machine, today = describe(), datetime.date.today().isoformat()
    out = HERE / "results"
    record = {"machine": machine, "date": today, "runs": runs, "peers": peers}
    (out / "c_export.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "# Networks as C: bytes, error, and the cost of a prediction",
        "",
        f"* Machine: {one_line(machine)}",
        f"* Command: `python benchmarks/c_export.py {' '.join(names)}`, {today}",
        f"* Whole numbers, calibrated on {CALIBRATION:,} training images. The C code compiled for this machine gave "
        f"the scores of the NumPy twin, bit for bit, on all {runs[0]['images']:,} test images.",
        "* *flash*, *RAM*: net.c alone, compiled with -Os, by `size`; without stack, start-up code and images.",
        f"* Cortex: instructions, counted by QEMU, mean of {ARM_IMAGES} images (M3) or {ARM_IMAGES // 10}, whose "
        "scores are those of the twin; code for the M0 runs on the M3.",
        f"* AVR: cycles by the chip's own timer in simavr, mean of {AVR_IMAGES} images, whose scores are those of the "
        "twin.",
        "* This machine: gcc -O2, median over all images, other work going on.",
        "* emlearn: trained here until 10 % of the training images, held out, got no better. Its flash is without the "
        "library's and the compiler's float routines; it does not fit into the ATmega328P's 32 kB.",
        "* TFLite Micro was not built here.",
        "",
        *table(runs, peers),
    ]
    (out / "c_export.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    runs = [measure(run, options.data_dir) for run in options.runs]
    peers = measure_peers(options.runs[0], options.data_dir)
    write(runs, peers, [run.name for run in options.runs])
    print("\n".join(table(runs, peers)))


if __name__ == "__main__":
    main()
