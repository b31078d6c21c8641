"""`spatial-mllm convert ...`: merge the two backbones, import and export public formats, compare checkpoints."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from . import common

if TYPE_CHECKING:
    from ..conversion.coverage import CoverageReport
    from ..conversion.verification import Comparison

convert = typer.Typer(
    name="convert", help="Make checkpoints out of others, and compare them.", no_args_is_help=True, add_completion=False
)
SOURCE = typer.Argument(help="Folder or Hub repository of a Spatial-MLLM.")
OUT = typer.Option(..., "--out", "-o", help="Folder to make; must not exist or be empty.")
DTYPE = typer.Option("auto", "--dtype", help=f"One of {', '.join(common.DTYPES)}; auto keeps each weight's own.")
SHARD_SIZE = typer.Option("4GB", "--max-shard-size", help="Largest weight file, such as 4GB or 500MB.")
STRICT = typer.Option(True, "--strict/--no-strict", help="Whether an unknown or missing weight is an error.")
JSON = typer.Option(False, "--json", help="Print the report as JSON instead, with every weight.")
REVISION = typer.Option(None, "--revision", help="Branch, tag or commit, of a Hub repository.")
SHOWN = 10


@convert.command()
def merge(
    qwen: str = typer.Option(..., "--qwen", help="Folder or repository of a Qwen2.5-VL of any size."),
    vggt: str = typer.Option(..., "--vggt", help="Folder, weight file or repository of VGGT-1B."),
    out: Path = OUT,
    connector: Literal["v1.1", "v1.0"] = typer.Option("v1.1", "--connector", help="Which public connector to start."),
    dtype: str = typer.Option("bfloat16", "--dtype", help=f"One of {', '.join(common.DTYPES)}."),
    heads: str = typer.Option("points,depth,camera", "--heads", help="Geometry heads of VGGT to keep."),
    max_shard_size: str = SHARD_SIZE,
    strict: bool = STRICT,
    as_json: bool = JSON,
) -> None:
    """Make a Spatial-MLLM out of Qwen2.5-VL and VGGT; it answers as that Qwen2.5-VL until it is trained."""
    torch_dtype, kept = _dtype(dtype), _heads(heads)
    _check_out(out)
    common.quiet_transformers()
    from ..conversion.sources import open_source
    from ..hub.checkpoint_folders import merge as write

    sources = open_source(qwen), open_source(vggt, allow_pt=True)
    with _bytes_bar("merging") as progress:
        report = write(*sources, out, connector, kept or (), torch_dtype, max_shard_size, strict, progress)
    _print_report(report, out, as_json)


@convert.command("from-official")
def from_official(
    source: str = SOURCE,
    out: Path = OUT,
    dtype: str = DTYPE,
    heads: str = typer.Option(None, "--heads", help="Geometry heads to keep. [default: all that are there]"),
    max_shard_size: str = SHARD_SIZE,
    strict: bool = STRICT,
    revision: str = REVISION,
    as_json: bool = JSON,
) -> None:
    """Make a complete folder of this package out of a public v1.1 or v1.0 checkpoint."""
    torch_dtype, kept = _dtype(dtype), _heads(heads)
    _check_out(out)
    common.quiet_transformers()
    from ..conversion.sources import open_source
    from ..hub.checkpoint_folders import from_official as write

    checkpoint = open_source(source, revision)
    with _bytes_bar("converting") as progress:
        report = write(checkpoint, out, torch_dtype, kept, max_shard_size, strict, progress)
    _print_report(report, out, as_json)


@convert.command("to-official")
def to_official(
    source: str = SOURCE,
    out: Path = OUT,
    dtype: str = DTYPE,
    max_shard_size: str = SHARD_SIZE,
    strict: bool = STRICT,
    revision: str = REVISION,
    as_json: bool = JSON,
) -> None:
    """Write the public layout that the official code loads (v1.1; v1.0 where the connector is v1.0's)."""
    torch_dtype = _dtype(dtype)
    _check_out(out)
    common.quiet_transformers()
    from ..conversion.sources import open_source
    from ..hub.checkpoint_folders import to_official as write

    checkpoint = open_source(source, revision)
    with _bytes_bar("converting") as progress:
        report = write(checkpoint, out, torch_dtype, max_shard_size, strict, progress)
    _print_report(report, out, as_json)


@convert.command("extract-vggt")
def extract_vggt(
    source: str = SOURCE, out: Path = OUT, dtype: str = DTYPE, revision: str = REVISION, as_json: bool = JSON
) -> None:
    """Write the VGGT inside a Spatial-MLLM in VGGT-1B's own layout."""
    torch_dtype = _dtype(dtype)
    _check_out(out)
    common.quiet_transformers()
    from ..conversion.sources import open_source
    from ..hub.checkpoint_folders import extract_vggt as write

    checkpoint = open_source(source, revision)
    with _bytes_bar("extracting") as progress:
        report = write(checkpoint, out, torch_dtype, progress)
    _print_report(report, out, as_json)


@convert.command()
def verify(
    a: str = typer.Argument(help="Folder, weight file or repository."),
    b: str = typer.Argument(help="What to compare it with, in any format."),
    parts: str = typer.Option(None, "--parts", help="Only these, of vision,spatial,connector,language,head."),
    as_json: bool = JSON,
) -> None:
    """Compare two checkpoints tensor by tensor, across formats. Exit code 1 if they differ."""
    common.quiet_transformers()
    from ..conversion.sources import open_source
    from ..conversion.verification import compare

    left, right = open_source(a, allow_pt=True), open_source(b, allow_pt=True)
    with _bytes_bar("comparing") as progress:
        result = compare(left, right, _listed(parts) or (), progress(left.nbytes))
    if as_json:
        sys.stdout.write(json.dumps(result.to_dict(), indent=2) + "\n")
    else:
        _print_comparison(result, a, b)
    if not result.same:
        raise typer.Exit(1)


def _dtype(name: str) -> Any:
    dtype = common.resolve_dtype(name)
    return None if dtype == "auto" else dtype


def _listed(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _heads(names: str | None) -> list[str] | None:
    from ..modeling.configuration_spatial_mllm import GEOMETRY_HEADS

    listed = _listed(names)
    unknown = [head for head in listed or [] if head not in GEOMETRY_HEADS]
    if unknown:
        raise ValueError(f"--heads must be some of {','.join(GEOMETRY_HEADS)}, got {','.join(unknown)}.")
    return listed if listed is None else [head for head in GEOMETRY_HEADS if head in listed]


def _check_out(out: Path) -> None:
    """Before anything is downloaded or read."""
    from ..conversion.new_folder import is_taken

    if is_taken(out):
        raise ValueError(f"--out {out} exists and is not an empty folder; name a new one, or remove it.")


@contextmanager
def _bytes_bar(verb: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A bar that counts bytes, on stderr; on no terminal, nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:

        def start(total: int) -> Callable[[int], None]:
            task = bar.add_task(verb, total=total)
            return lambda written: bar.advance(task, written)

        yield start


def _print_report(report: "CoverageReport", out: Path, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report.to_dict(), indent=2) + "\n")
        return
    console = common.report_console()
    table = common.plain_table("weights", "number", "parameters", "size")
    for fate, total in report.totals().items():
        table.add_row(fate, *_amounts(total))
    table.add_section()
    for part, total in report.parts().items():
        table.add_row(part, *_amounts(total))
    console.print(table)
    for fate, reasons in report.reasons().items():
        for reason, counted in reasons.items():
            console.print(f"{fate}: {counted['weights']} weights, {reason}")
    for note in report.notes:
        console.print(f"note: {note}")
    dtypes = ", ".join(report.dtype)
    console.print(
        f"Wrote {out} ({dtypes}). Every weight's account: conversion_report.json", markup=False, soft_wrap=True
    )


def _amounts(total: dict[str, int]) -> tuple[str, str, str]:
    return f"{total['weights']:,}", f"{total['parameters']:,}", common.describe_bytes(total["bytes"])


def _print_comparison(result: "Comparison", a: str, b: str) -> None:
    console = common.report_console()
    counts = [
        (len(result.equal), "equal bit for bit"),
        (len(result.rounded), "equal up to the rounding of their types"),
    ]
    counts += [(len(result.different), "of other values"), (len(result.shapes), "of other shapes")]
    counts += [(len(result.only_a), f"only in {a}"), (len(result.only_b), f"only in {b}")]
    for number, what in counts:
        if number:
            console.print(f"{number:6,} weights {what}")
    for name, gap in list(result.different.items())[:SHOWN]:
        console.print(f"       {name}: differs by at most {gap:.3g}")
    for name, (left, right) in list(result.shapes.items())[:SHOWN]:
        console.print(f"       {name}: {left} and {right}")
    for name in [*result.only_a[:SHOWN], *result.only_b[:SHOWN]]:
        console.print(f"       {name}")
    for reason in sorted(set(result.ignored.values())):
        number = list(result.ignored.values()).count(reason)
        console.print(f"{number:6,} weights not compared: {reason}")
    console.print("The same model." if result.same else "Not the same model.")
