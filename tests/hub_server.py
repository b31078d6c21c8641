"""A stand-in of the Hugging Face Hub for tests: models only, in memory, on 127.0.0.1, for the real `huggingface_hub`.

    with HubServer(tokens={"hf_good": "user"}) as hub:
        HfApi(endpoint=hub.endpoint, token="hf_good").create_repo("user/model")

It speaks what the client of 1.31 and 2.4 asks for without Xet (HF_HUB_DISABLE_XET=1). Unlike the real Hub it serves LFS
objects itself instead of redirecting to a CDN, ignores .gitignore, and knows no organizations, gating or multipart
uploads.

The client reads HF_ENDPOINT, HF_HUB_OFFLINE and HF_HUB_DISABLE_XET once, when it is imported, so what makes its own
HfApi (transformers, for one) runs in a process of its own: `run_python` with the fixture `hub_environment`. Within the
test's process the fixture `hub_api` changes the constants that those variables became.

`hub_repositories.py` is the state, `hub_endpoints.py` answers requests; here are connections, faults and the log.
"""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_endpoints import Endpoints, HubState, Reply
from hub_repositories import HubError, Repository

CHUNK = 65536


@dataclass
class LoggedRequest:
    """`status` is 0 where the connection was cut before an answer; `path` is unquoted and without the query.

    Bytes are those of the bodies.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    range: str | None
    status: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0


@dataclass
class Fault:
    """Either an error (`status`) or a cut after so many bytes of the body."""

    method: str
    path: re.Pattern[str]
    times: int
    status: int = 0
    after_bytes: int = 0
    reset: bool = True


class HubServer:
    """`tokens` maps an access token to its user, who may write to `user/...` and sees only those private repositories.

    With `strict_cards`, a README.md without front matter or without license is an error; to the real Hub the first is a
    warning and the second nothing. `requests` is the log, oldest first.
    """

    def __init__(self, tokens: Mapping[str, str] | None = None, strict_cards: bool = True) -> None:
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self.state = HubState(self.endpoint, dict(tokens or {"hf_good": "user"}), strict_cards)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def cut_upload(self, after_bytes: int, times: int = 1) -> None:
        """Resets the connection of the next uploads of an LFS object once so many bytes have come."""
        self._add(Fault("PUT", re.compile("^/lfs/"), times, after_bytes=after_bytes))

    def cut_download(self, path_suffix: str, after_bytes: int, times: int = 1, reset: bool = False) -> None:
        """Announces a whole file but ends the connection early: by closing it, or with `reset` by a TCP reset.

        A reset may also take away bytes that were sent but not yet read.
        """
        pattern = re.compile(f"/resolve/.*{re.escape(path_suffix)}$")
        self._add(Fault("GET", pattern, times, after_bytes=after_bytes, reset=reset))

    def fail(self, method: str, path_regex: str, status: int, times: int = 1) -> None:
        """Answers the next requests whose unquoted path has a match for the pattern with an error."""
        self._add(Fault(method, re.compile(path_regex), times, status=status))

    def _add(self, fault: Fault) -> None:
        with self.lock:
            self.faults.append(fault)

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None

    def requests_for(self, method: str, path_regex: str = "") -> list[LoggedRequest]:
        return [
            request for request in self.requests if request.method == method and re.search(path_regex, request.path)
        ]

    def repository(self, repo: str) -> Repository:
        return self.state.repositories[repo]

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What a revision holds, including the .gitattributes that every new repository has."""
        return {path: file.content for path, file in self.repository(repo).resolve(revision).files.items()}

    def sha256(self, repo: str, path: str, revision: str = "main") -> str:
        return self.repository(repo).resolve(revision).files[path].sha256


class _Handler(BaseHTTPRequestHandler):
    """One connection, which may bring many requests."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error: `HubServer.requests` is the log."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        byte_range = None if self.command == "HEAD" else self.headers.get("Range")
        self.log = LoggedRequest(self.command, unquote(url.path), parse_qs(url.query), byte_range)
        self.hub.requests.append(self.log)
        fault = self.hub.take_fault(self.command, self.log.path)
        failure = fault.status if fault else 0
        cut = fault if fault and not fault.status else None
        try:
            if cut and self.command == "PUT":
                self._receive(cut.after_bytes)
                self._end_connection(cut)
            else:
                body = self._receive(int(self.headers.get("Content-Length", 0)))
                self._send(self._answer(url.path, body, failure), cut)
        except ConnectionError:  # the client went away
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            chunk = self.rfile.read1(min(CHUNK, length - len(received)))
            if not chunk:
                raise ConnectionError("the client closed the connection")
            received += chunk
            self.log.bytes_received = len(received)
        return bytes(received)

    def _answer(self, path: str, body: bytes, failure: int) -> Reply:
        method = "GET" if self.command == "HEAD" else self.command
        authorization = self.headers.get("Authorization", "")
        endpoints = Endpoints(self.hub.state, authorization, self.log.query, self.log.range, body)
        try:
            if failure:
                raise HubError(failure, "a failure that the test asked for")
            with self.hub.lock:
                return endpoints.answer(method, path)
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message.replace("\n", " "), **error.headers}
            headers = {name: value for name, value in headers.items() if value}
            return Reply(json.dumps({"error": error.message}).encode(), headers, error.status)

    def _send(self, reply: Reply, cut: Fault | None) -> None:
        self.log.status = reply.status
        self.send_response(reply.status)
        headers = {"Content-Length": str(len(reply.content)), "Content-Type": "application/json", **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value.encode("latin-1", "replace").decode("latin-1"))
        self.end_headers()
        content = memoryview(reply.content)[: cut.after_bytes if cut else None]
        for start in range(0, 0 if self.command == "HEAD" else len(content), CHUNK):
            chunk = content[start : start + CHUNK]
            self.log.bytes_sent += len(chunk)  # before the client can know
            self.wfile.write(chunk)
        if cut:
            self._end_connection(cut)

    def _end_connection(self, cut: Fault) -> None:
        self.close_connection = True
        if cut.reset:  # closing without lingering is a TCP reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())


def client_environment(server: HubServer, root: Path, token: str) -> dict[str, str]:
    """Variables for a process that knows no Hub but the stand-in, with caches of its own below `root`."""
    offline = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
    inherited = {name: value for name, value in os.environ.items() if name not in offline}
    return {
        **inherited,
        "HF_ENDPOINT": server.endpoint,
        "HF_TOKEN": token,
        "HF_HOME": str(root / "hf_home"),
        "HF_HUB_CACHE": str(root / "hf_home" / "hub"),
        "HF_MODULES_CACHE": str(root / "hf_modules"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def run_python(
    code: str, *args: str, env: Mapping[str, str], cwd: PathLike[str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own; with `check` a failure is an assertion error with its standard error."""
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(env), check=False, cwd=cwd)
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done
