"""Runs two ways of doing one thing in turns, and says what their times have to do with each other.

Every figure is a ratio of times taken in one process, one after the other: machines are shared and noisy, and a ratio
of neighbours survives that better than any number of seconds.
"""

import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import transformers

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
CPU_DESCRIPTION = Path("/proc/cpuinfo")


@dataclass
class Comparison:
    """One thing done in two ways.

    Attributes:
        name, setting: what was done, with which sizes.
        baseline, ours: seconds (or, with unit "bytes", memory) of each run, in pairs.
        target: the ratio that was aimed at, None where there was none.
        unit: "s" or "bytes".
    """

    name: str
    setting: str
    baseline: list[float]
    ours: list[float]
    target: float | None = None
    unit: str = "s"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """How many times as much the baseline took, pair by pair."""
        return [slow / fast for slow, fast in zip(self.baseline, self.ours)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target


def compare(
    name: str,
    setting: str,
    baseline: Callable[[], Any],
    ours: Callable[[], Any],
    repeats: int = 3,
    target: float | None = None,
    warm_up: bool = False,
) -> Comparison:
    """Runs both in turns, `repeats` times each, the order changing every time."""
    times: dict[str, list[float]] = {"baseline": [], "ours": []}
    ways = [("baseline", baseline), ("ours", ours)]
    for run in range(-1 if warm_up else 0, repeats):
        for way, work in ways if run % 2 == 0 else reversed(ways):
            seconds = timed(work)
            if run >= 0:
                times[way].append(seconds)
    comparison = Comparison(name, setting, times["baseline"], times["ours"], target)
    print(describe(comparison), flush=True)
    return comparison


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a piece of work takes, an accelerator's own included."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


@contextmanager
def peak_resident_bytes() -> Iterator[list[int]]:
    """Gathers by how much the process's resident memory grew at most; sampled every 5 ms (Linux)."""
    statistics_file, stop, peak = Path("/proc/self/statm"), threading.Event(), [0]
    before = int(statistics_file.read_text().split()[1]) * PAGE

    def sample() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], int(statistics_file.read_text().split()[1]) * PAGE - before)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield peak
    stop.set()
    thread.join()


def describe(comparison: Comparison) -> str:
    """One line: name, medians, ratio with its range, and the target."""
    show = _bytes if comparison.unit == "bytes" else _seconds
    line = f"{comparison.name} ({comparison.setting}): {show(statistics.median(comparison.baseline))} → "
    line += f"{show(statistics.median(comparison.ours))}, {comparison.ratio:.2f} times less"
    if len(comparison.ratios) > 1:
        line += f" ({min(comparison.ratios):.2f} to {max(comparison.ratios):.2f})"
    if comparison.target is not None:
        line += f"; target {comparison.target:g}: {'met' if comparison.is_met else 'missed'}"
    return line


def markdown_table(comparisons: list[Comparison]) -> str:
    """The comparisons as a table for the docs."""
    lines = ["| what | setting | baseline | ours | ratio | range | target |", "|---|---|---|---|---|---|---|"]
    for row in comparisons:
        show = _bytes if row.unit == "bytes" else _seconds
        spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}" if len(row.ratios) > 1 else "exact"
        target = "" if row.target is None else f"{row.target:g}, {'met' if row.is_met else '**missed**'}"
        medians = (show(statistics.median(values)) for values in (row.baseline, row.ours))
        lines.append(f"| {row.name} | {row.setting} | {' | '.join(medians)} | {row.ratio:.2f} | {spread} | {target} |")
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _bytes(value: float) -> str:
    return f"{value / 2**30:.2f} GiB"


def environment() -> dict[str, Any]:
    """Machine and versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    described = CPU_DESCRIPTION.read_text() if CPU_DESCRIPTION.exists() else ""
    model = next((line.split(":")[1].strip() for line in described.splitlines() if line.startswith("model name")), "")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "processor": model or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerator": None if device is None else torch.get_device_module(device).get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def write_json(parts: dict[str, list[Comparison]], path: Path) -> dict[str, list[Comparison]]:
    """Puts the parts that have run in place of their older results, each with the machine it ran on; returns all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(path.read_text()) if path.exists() else {}
    for part, comparisons in parts.items():
        rows = [{**asdict(row), "ratio": row.ratio} for row in comparisons]
        report[part] = {"environment": environment(), "comparisons": rows}
    path.write_text(json.dumps(report, indent=1) + "\n")
    names = {entry.name for entry in fields(Comparison)}
    return {
        part: [Comparison(**{name: row[name] for name in names}) for row in content["comparisons"]]
        for part, content in report.items()
    }
