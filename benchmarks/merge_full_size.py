"""A full-size merge: Qwen2.5-VL-3B and VGGT-1B, made of random numbers by the names and shapes of the public files.

    python benchmarks/merge_full_size.py [--folder DIR]

Writes about 36 GB in all, at most 26 GB at once. Prints a markdown table: time of the merge beside that of copying the
bytes it wrote (each to the disk, with `sync` at the end), and the merging process's highest memory as the kernel counts
it, with and without the pages of the file that is being read (those are the page cache's and given back when needed).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from spatial_mllm_hf.conversion.checkpoint_writing import TensorToWrite, parse_size, write_weights

REFERENCE = Path(__file__).parent.parent / "tests" / "reference"
SHARD_SIZE = "4GB"
BLOCK = 2**24
GB = 1e9
QWEN = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
VGGT_1B = {"img_size": 518, "patch_size": 14, "embed_dim": 1024}


def make_source(folder: Path, manifest: str, config: dict, dtype: torch.dtype, shard_size: int | None) -> int:
    """Writes a checkpoint of random numbers with the names and shapes of a public one. Returns its bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    block = torch.empty(BLOCK).uniform_(-0.02, 0.02, generator=torch.Generator().manual_seed(0)).to(dtype)
    shapes = json.loads((REFERENCE / "manifests" / f"{manifest}.json").read_text())
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight")
    tensors = [
        TensorToWrite(name, tuple(shape), dtype, partial(repeat, block, torch.Size(shape).numel()))
        for name, shape in shapes.items()
    ]
    write_weights(tensors, folder, shard_size)
    return sum(tensor.nbytes for tensor in tensors)


def repeat(block: torch.Tensor, numel: int) -> Iterator[torch.Tensor]:
    for start in range(0, numel, BLOCK):
        yield block[: min(BLOCK, numel - start)]


def run_measured(command: list[str]) -> tuple[float, int, int]:
    """Seconds, highest resident memory and highest anonymous memory of a process, in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    highest = {"VmHWM": 0, "RssAnon": 0}
    while process.poll() is None:
        for name, value in read_status(process.pid).items():
            highest[name] = max(highest.get(name, 0), value)
        time.sleep(0.02)
    os.sync()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - started, highest["VmHWM"], highest["RssAnon"]


def read_status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon") if name in fields}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    root = Path(tempfile.mkdtemp(prefix="merge-full-size-", dir=parser.parse_args().folder))
    try:
        print("Writing the sources ...", file=sys.stderr)
        qwen = {**json.loads((REFERENCE / "public_3b_config.json").read_text()), **QWEN}
        read = make_source(root / "qwen", "qwen2_5_vl_3b", qwen, torch.bfloat16, parse_size(SHARD_SIZE))
        read += make_source(root / "vggt", "vggt_1b", VGGT_1B, torch.float32, None)
        os.sync()
        command = [sys.executable, "-m", "spatial_mllm_hf.cli.main", "convert", "merge", "--max-shard-size", SHARD_SIZE]
        command += ["--qwen", str(root / "qwen"), "--vggt", str(root / "vggt"), "--out", str(root / "merged")]
        print("Merging ...", file=sys.stderr)
        seconds, resident, anonymous = run_measured(command)
        shutil.rmtree(root / "qwen")
        shutil.rmtree(root / "vggt")
        shards = sorted((root / "merged").glob("*.safetensors"))
        written = sum(path.stat().st_size for path in shards)
        largest = max(path.stat().st_size for path in shards)
        print("Copying ...", file=sys.stderr)
        (root / "copy").mkdir()
        started = time.perf_counter()
        for path in shards:
            shutil.copyfile(path, root / "copy" / path.name)
        os.sync()
        copying = time.perf_counter() - started
        print("| | |\n|---|---|")
        print(f"| read | {read / GB:.2f} GB (Qwen2.5-VL-3B in bfloat16, VGGT-1B in float32) |")
        print(f"| written | {written / GB:.2f} GB in {len(shards)} shards, the largest {largest / GB:.2f} GB |")
        print(f"| merge | {seconds:.0f} s |")
        print(f"| copying what it wrote | {copying:.0f} s (the merge takes {seconds / copying:.2f} times as long) |")
        print(f"| highest memory | {resident / GB:.2f} GB, {resident / largest:.2f} shards |")
        print(f"| of it the process's own, without the file being read | {anonymous / GB:.2f} GB |")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
