"""`spatial-mllm inspect DIR_OR_REPO`: what a checkpoint is, from its headers; downloads no weights."""

import json
import sys
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from . import common

if TYPE_CHECKING:
    from ..conversion.inspection import CheckpointFacts


def inspect(
    checkpoint: str = typer.Argument(help="Folder or Hub repository: Spatial-MLLM, Qwen2.5-VL or VGGT."),
    revision: str = typer.Option(None, "--revision", help="Branch, tag or commit, of a Hub repository."),
    as_json: bool = typer.Option(False, "--json", help="Print it as JSON instead."),
) -> None:
    """Say what a checkpoint is, how large, and what it lacks."""
    common.quiet_transformers()
    from ..conversion.inspection import inspect_checkpoint

    facts = inspect_checkpoint(checkpoint, revision)
    if as_json:
        sys.stdout.write(json.dumps(facts.to_dict(), indent=2) + "\n")
        return
    console = common.report_console()
    written = f", written by spatial-mllm-hf {facts.written_by}" if facts.written_by else ""
    lines = {
        "format": f"{facts.title}{written}",
        "types": ", ".join(facts.dtype),
        **({"quantised": f"{facts.quantisation}; sizes are those of packed weights"} if facts.quantisation else {}),
        "connector": facts.connector or "none",
        "heads": ", ".join(facts.heads) or "none",
        "licences": ", ".join(facts.licences),
        "missing": "; ".join(facts.missing) or "nothing: it is complete",
    }
    for name, value in lines.items():
        console.print(f"{name:<10} {value}")
    console.print()
    console.print(_sizes(facts))
    console.print("\nWeights only. int8 and int4 hold for the language model's linear layers, the rest as bfloat16.")


def _sizes(facts: "CheckpointFacts") -> Table:
    """A row for each part: what the file holds, and the memory of its weights in each type."""
    headings = ("part", "weights", "parameters", "in the file", *facts.memory)
    table = common.plain_table(*headings)
    for part, total in facts.parts.items():
        sizes = [total["bytes"], *facts.memory_by_part[part].values()]
        row = (f"{total['weights']:,}", f"{total['parameters']:,}", *map(common.describe_bytes, sizes))
        table.add_row(part, *row)
    weights, parameters, stored = (
        sum(total[key] for total in facts.parts.values()) for key in ("weights", "parameters", "bytes")
    )
    sizes = [stored, *facts.memory.values()]
    table.add_row("all", f"{weights:,}", f"{parameters:,}", *map(common.describe_bytes, sizes))
    return table
