"""The command `spatial-mllm`: gathers the verbs and turns a user's mistake into one clear line and exit code 2."""

import sys
import warnings

import typer
from safetensors import SafetensorError

from .ask import ask
from .make_tiny import make_tiny
from .sample import sample

app = typer.Typer(
    name="spatial-mllm",
    help="Questions about 3D space, answered from ordinary video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(ask)
app.command()(sample)
app.command("make-tiny")(make_tiny)


@app.callback()
def _options(
    traceback: bool = typer.Option(False, "--traceback", help="Show where an error comes from."),
) -> None:
    """Questions about 3D space, answered from ordinary video."""
    _State.traceback = traceback


class _State:
    traceback = False


def main() -> None:
    """Runs the command. Mistakes of the user (`ValueError`, `OSError`) end it with code 2."""
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"spatial-mllm: warning: {message}\n"
    try:
        app()
    except (ValueError, OSError, SafetensorError) as error:
        if _State.traceback:
            raise
        message = " ".join(str(error).split())
        if isinstance(error, SafetensorError):
            message = f"the checkpoint's weights cannot be read ({message}); get its safetensors files again."
        sys.stderr.write(f"spatial-mllm: error: {message}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
