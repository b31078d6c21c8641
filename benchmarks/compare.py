"""The package against a plain implementation of the published procedure: what `make bench` and `make bench-gpu` run.

    python benchmarks/compare.py [--device cpu|cuda] [--parts sampling decoding ...] [--repeats 3]

Prints a line for each comparison as it comes and a table at the end, writes every run to
`benchmarks/results/<device>.json` (parts that did not run keep their older results), and puts table and plots into
docs/performance.md.
"""

import argparse
import sys
import time
from pathlib import Path

import bench_decoding
import bench_encoder
import bench_sampling
import bench_scenes
import torch
from measuring import Comparison, environment, markdown_table, write_json
from plots import draw

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PARTS = ("sampling", "decoding", "encoder", "geometry", "kernels", "memory", "scenes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type != "cpu" and not torch.accelerator.is_available():
        print("There is no accelerator on this machine: nothing was measured.")
        return
    started = time.monotonic()
    done: dict[str, list[Comparison]] = {}
    for part in arguments.parts:
        print(f"\n{part}", flush=True)
        done[part] = run_part(part, device, arguments.repeats)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes")
    known = write_json(done, HERE / "results" / f"{device.type}.json")
    rows = [row for part in PARTS for row in known.get(part, [])]
    print(markdown_table(rows))
    draw(rows, DOCS / f"benchmark_{device.type}.png")
    put_into_docs(markdown_table(rows), device.type)


def run_part(part: str, device: torch.device, repeats: int) -> list[Comparison]:
    """The comparisons of one part."""
    is_cpu = device.type == "cpu"
    if part == "sampling":
        return bench_sampling.run(repeats)
    if part == "decoding":
        return bench_decoding.run(repeats)
    if part == "memory":
        return bench_encoder.memory()
    if part == "scenes":
        return bench_scenes.run(repeats, device)
    frames, size = ((16, 64), (224, 168)) if is_cpu else ((16, 128), (518, 392))
    if part == "geometry":
        return bench_encoder.geometry(repeats, device, size)
    run = bench_encoder.run if part == "encoder" else bench_encoder.kernels
    return run(repeats, device, 2 if is_cpu else 24, frames, size)


def put_into_docs(table: str, device: str) -> None:
    """Replaces what stands between the marks of this device in docs/performance.md."""
    path = DOCS / "performance.md"
    begin, end = f"<!-- bench {device} begins -->", f"<!-- bench {device} ends -->"
    before, marked, rest = path.read_text().partition(begin)
    if not marked or end not in rest:
        sys.exit(f"{path} has no marks {begin} ... {end}")
    machine = environment()
    about = ", ".join(f"{name} {value}" for name, value in machine.items() if value)
    path.write_text(f"{before}{begin}\n{about}\n\n{table}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
