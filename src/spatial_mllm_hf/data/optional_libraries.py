"""Libraries that only a part of the data tools needs: the extra `data` brings them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def needs(library: str) -> Iterator[None]:
    """Wraps the import of a library.

    Raises:
        ValueError: if it is not installed; says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != library:
            raise
        raise ValueError(
            f'This needs {library}, which is not installed: pip install "spatial-mllm-hf[data]".'
        ) from error


def check_installed(*libraries: str) -> None:
    """Looks for libraries before work begins that would need them in its middle.

    Raises:
        ValueError: for the first that is not installed.
    """
    for library in libraries:
        with needs(library):
            import_module(library)
