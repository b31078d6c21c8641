"""`spatial-mllm push DIR REPO`: checks a folder, renders its card and publishes it."""

import sys
from pathlib import Path

import typer

from . import common


def push(
    folder: Path = typer.Argument(help="A complete checkpoint folder."),
    repo: str = typer.Argument(help="Repository on the Hub, as name/repository; made if need be."),
    private: bool = typer.Option(False, "--private", help="Make a new repository private."),
    revision: str = typer.Option(None, "--revision", help="Branch to commit to; made if need be."),
    create_pr: bool = typer.Option(False, "--create-pr", help="Open a pull request instead of committing."),
    results: Path = typer.Option(None, "--results", help="JSON in the form of a model-index, for the model card."),
    dataset: list[str] = typer.Option([], "--dataset", help="Data set it was trained on, for the card; repeatable."),
    message: str = typer.Option(None, "--message", help="Of the commit."),
) -> None:
    """Publish a checkpoint on the Hub. After an interruption, run it again: it goes on where it stopped."""
    common.quiet_transformers()
    from ..conversion.sources import is_repository
    from ..hub.model_card import read_results
    from ..hub.publishing import publish

    if not is_repository(repo):
        raise ValueError(f"{repo!r} is not the name of a repository; expected name/repository.")
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder.")
    address = publish(
        folder,
        repo,
        private=private or None,
        revision=revision,
        create_pr=create_pr,
        results=read_results(results) if results else (),
        datasets=dataset,
        commit_message=message,
    )
    sys.stdout.write(f"{address}\n")
