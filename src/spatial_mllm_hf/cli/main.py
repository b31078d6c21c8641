"""The command `spatial-mllm`: gathers the verbs and turns a user's mistake into one clear line and exit code 2."""

import logging
import sys
import warnings

import typer
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

from .ask import ask
from .chat import chat
from .convert import convert
from .data import data
from .data_cold_start import cold_start
from .data_convert import scannet, scanqa, sqa3d
from .data_reasoned import reasoned
from .data_rooms import rooms
from .evaluate import evaluate
from .inspect_checkpoint import inspect
from .make_tiny import make_tiny
from .push import push
from .sample import sample
from .train import SETTINGS, train
from .train_geometry import geometry
from .train_grpo import grpo

app = typer.Typer(
    name="spatial-mllm",
    help="Questions about 3D space, answered from ordinary video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(ask)
app.command()(chat)
app.command()(sample)
app.command("eval")(evaluate)
app.command()(inspect)
app.command()(push)
app.command("make-tiny")(make_tiny)
app.add_typer(convert)
app.add_typer(data)
for command in (rooms, reasoned, scannet, scanqa, sqa3d):
    data.command()(command)
data.command("cold-start")(cold_start)
app.add_typer(train)
train.command(context_settings=SETTINGS)(geometry)
train.command(context_settings=SETTINGS)(grpo)


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
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao's registrations, of no use to a user
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"spatial-mllm: warning: {message}\n"
    try:
        app()
    except (ValueError, OSError, SafetensorError, _transport_error()) as error:
        if _State.traceback:
            raise
        message = " ".join(str(error).split())
        if isinstance(error, _transport_error()) and not isinstance(error, HfHubHTTPError):
            message = f"the Hub cannot be reached ({message}). Is there a network, and is HF_ENDPOINT right?"
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            message += " (The Hub does not accept the token: see HF_TOKEN and `hf auth login`.)"
        if isinstance(error, SafetensorError):
            message = f"the checkpoint's weights cannot be read ({message}); get its safetensors files again."
        sys.stderr.write(f"spatial-mllm: error: {message}\n")
        raise SystemExit(2) from None


def _transport_error() -> type[Exception]:
    """What the Hub's HTTP client raises when it reaches nobody; which library that is depends on its release."""
    library = type(get_session()).__module__.split(".")[0]
    return sys.modules[library].HTTPError


if __name__ == "__main__":
    main()
