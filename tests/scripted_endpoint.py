"""A small endpoint of chat completions on the loopback, whose answers and faults are scripted."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# What a script may give instead of a text: a status with a body, or one of the faults.
Reply = str | tuple[int, str] | None
CUT, SLOW, GARBAGE, HANG_UP = "\0cut", "\0slow", "\0garbage", "\0hang up"
SLOWNESS = 1.0  # seconds, more than the tests wait


@dataclass
class ScriptedEndpoint:
    """The server as tests see it.

    Attributes:
        script: the reply to a request, by its body and how often this very body came before.
        bodies: of the requests, in the order of their arrival.
        headers: of the requests, likewise.
        most_at_once: requests that were under way together.
    """

    script: Callable[[dict[str, Any], int], Reply]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0


def question_of(body: dict[str, Any]) -> str:
    """The text of a request."""
    (text,) = [part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text"]
    return text


def completion(text: str | None) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"id": "1", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()


@contextmanager
def serve(script: Callable[[dict[str, Any], int], Reply]) -> Iterator[ScriptedEndpoint]:
    """Runs an endpoint for as long as the context."""
    endpoint = ScriptedEndpoint(script)
    lock = threading.Lock()
    under_way = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal under_way
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                before = endpoint.bodies.count(body)
                endpoint.bodies.append(body)
                endpoint.headers.append(dict(self.headers))
                under_way += 1
                endpoint.most_at_once = max(endpoint.most_at_once, under_way)
            try:
                self.reply(
                    endpoint.script(body, before) if self.path == "/v1/chat/completions" else (404, "no such page")
                )
            finally:
                with lock:
                    under_way -= 1

        def reply(self, reply: Reply) -> None:
            if reply == HANG_UP:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if reply == SLOW:
                time.sleep(SLOWNESS)
            if isinstance(reply, tuple):
                status, content = reply[0], reply[1].encode()
            else:
                status, content = 200, completion(reply)
            if reply == GARBAGE:
                content = b"<html>502 but with status 200</html>"
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if reply == CUT else content)
            except OSError:  # whoever asked has given up
                return

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
