"""Reads a video over HTTP by ranges, so that only what is asked for goes through the network.

FFmpeg's own reader opens a request up to the end of the file at each jump, and walking over the packets of a video
takes all of its bytes. `HttpFile` fetches blocks, keeps a bounded number of them, and can be told to go blank: for an
mp4 whose sample tables are read, the walk needs no byte of the samples themselves (`has_all_tables` says when).
"""

import io
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

BLOCK_BYTES = 128 * 1024
MAX_BLOCKS_AT_ONCE = 32  # in one request, while the file is read on and on
KEPT_BLOCKS = 128

_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "spatial-mllm-hf"}
_MAX_BOXES = 1000


class HttpReadError(OSError):
    """The server cannot be reached, or does not give what it should. The message is the reason alone."""


class NoRangesError(Exception):
    """The server ignores the range asked for."""


class HttpFile(io.RawIOBase):
    """A file on a web server, read by ranges of whole blocks.

    Attributes:
        name: the URL given, from whose ending FFmpeg may guess the format.
        size: bytes of the whole file.
        is_blank: while True, reads give zeros without touching the network.
        error: why reading failed. From then on the file looks as if it ended there: FFmpeg, through which the calls
            go, has no way to hand an exception on.
    """

    def __init__(self, url: str, timeout: float) -> None:
        """Fetches the first block, with `timeout` seconds for each wait.

        Raises:
            HttpReadError: it cannot be read.
            NoRangesError: the server gives the whole file only.
        """
        super().__init__()
        self.name = url
        self.size = -1
        self.is_blank = False
        self.error: str | None = None
        self._timeout = timeout
        self._given_url = self._url = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next_block, self._at_once = -1, 1
        self._fetch(0, 1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, ending early where a block ends; none at the end of the file or after an error."""
        left = max(0, self.size - self._position)
        size = left if size < 0 else min(size, left)
        if self.is_blank:
            data = bytes(size)
        elif size == 0 or self.error is not None:
            return b""
        else:
            number, start = divmod(self._position, BLOCK_BYTES)
            try:
                data = self._block(number)[start : start + size]
            except (HttpReadError, NoRangesError) as error:
                self.error = str(error)
                return b""
        self._position += len(data)
        return data

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            # Twice as much at a time as long as nothing is skipped, a single block after a jump.
            self._at_once = min(2 * self._at_once, MAX_BLOCKS_AT_ONCE) if number == self._next_block else 1
            self._fetch(number, self._at_once)
            self._next_block = number + self._at_once
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch(self, number: int, count: int) -> None:
        start, end = number * BLOCK_BYTES, (number + count) * BLOCK_BYTES
        data = b""
        while self.size < 0 or start + len(data) < min(end, self.size):  # a server may give less at a time
            data += self._get_twice(start + len(data), end)
        for offset in range(0, len(data), BLOCK_BYTES):
            self._blocks[number + offset // BLOCK_BYTES] = data[offset : offset + BLOCK_BYTES]
        while len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)

    def _get_twice(self, start: int, end: int) -> bytes:
        """The bytes; one failure is forgiven. The address to which a redirect led may have expired by then."""
        try:
            return self._get(self._url, start, end)
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, HTTPError) and error.code < 500 and self._url == self._given_url:
                raise HttpReadError(_reason(error)) from error
        try:
            return self._get(self._given_url, start, end)
        except (OSError, HTTPException, ValueError) as error:
            raise HttpReadError(_reason(error)) from error

    def _get(self, url: str, start: int, end: int) -> bytes:
        request = Request(url, headers={**_HEADERS, "Range": f"bytes={start}-{end - 1}"})
        with urlopen(request, timeout=self._timeout) as response:
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
            if response.status != 206 or found is None or int(found[1]) != start:
                raise NoRangesError("the server gives no parts of the file")
            length, size = int(found[2]) + 1 - start, int(found[3])
            if self.size not in (-1, size):
                raise HttpReadError(f"the file changed from {self.size} to {size} bytes while it was read")
            data = response.read(min(length, end - start))
            if len(data) < min(length, end - start):
                raise HttpReadError(f"the connection was cut after {len(data)} of {length} bytes")
            self._url, self.size = response.url, size
        return data


def open_http(url: str, timeout: float) -> HttpFile | None:
    """Opens a URL, or returns None if FFmpeg has to read it by itself: no ranges, a name and password, a playlist.

    Raises:
        HttpReadError: it cannot be read.
    """
    if "@" in url.split("/")[2]:
        return None
    try:
        file = HttpFile(url, timeout)
    except NoRangesError:
        return None
    start = file.read(64).lstrip()
    file.seek(0)
    return None if start.startswith((b"#EXTM3U", b"<")) else file


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return "the file is empty" if error.code == 416 else f"HTTP {error.code} {error.reason}"
    return str(error.reason if isinstance(error, URLError) else error) or type(error).__name__


def has_all_tables(file: HttpFile) -> bool:
    """Whether an mp4 or mov states all its samples in one table, none in fragments further on.

    Leaves the file where it stands: FFmpeg reads on from there.
    """
    names, position = [], file.tell()
    for name, start, end in _boxes(file, 0, file.size):
        names.append(name)
        if name == b"moov":
            names += [child for child, _, _ in _boxes(file, start, end)]
        if name == b"moof" or len(names) > _MAX_BOXES:
            break
    file.seek(position)
    return b"moov" in names and b"mvex" not in names and b"moof" not in names and len(names) <= _MAX_BOXES


def _boxes(file: HttpFile, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the content of each box of an mp4 between two places."""
    while start + 8 <= end:
        head = _read_fully(file, start, 16)
        length, name, content = int.from_bytes(head[:4], "big"), head[4:8], start + 8
        if length == 1:
            length, content = int.from_bytes(head[8:], "big"), start + 16
        following = end if length == 0 else start + length
        if following < content:
            return
        yield name, content, min(following, end)
        start = following


def _read_fully(file: HttpFile, start: int, size: int) -> bytes:
    file.seek(start)
    data = b""
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data
