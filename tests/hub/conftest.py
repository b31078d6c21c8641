"""A Hub of its own for each test, and two ways to it: a process's environment, and a client within this process."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import HubServer, client_environment
from huggingface_hub import HfApi, constants

TOKEN, USER = "hf_good", "user"
OTHER_TOKEN, OTHER_USER = "hf_other", "other"


@pytest.fixture
def hub_server() -> Iterator[HubServer]:
    """An empty Hub with the users `user` and `other`, whose tokens are `hf_good` and `hf_other`."""
    with HubServer(tokens={TOKEN: USER, OTHER_TOKEN: OTHER_USER}) as server:
        yield server


@pytest.fixture
def hub_environment(hub_server: HubServer, tmp_path: Path) -> dict[str, str]:
    """Variables for a process that knows no Hub but the stand-in, signed in as `user`, with caches of its own."""
    return client_environment(hub_server, tmp_path, TOKEN)


@pytest.fixture
def hub_api(hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HfApi]:
    """A client in this process, signed in as `user`; clients of others are `HfApi(endpoint=..., token=...)` next to it.

    `constants` are looked up at each call, so that changing them is enough; the HTTP client, which is shared and knows
    proxies from the environment, is made anew. transformers keeps an HfApi of its own, made with the endpoint of its
    first use: whatever goes through it belongs into `run_python`.
    """
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf_cache"))
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.endpoint)
    template = hub_server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    huggingface_hub.close_session()
    yield HfApi(endpoint=hub_server.endpoint, token=TOKEN)
    huggingface_hub.close_session()
