"""Training samples out of several sources, each a share of itself: the rows that a run trains on, in a fixed order.

A source is a .jsonl, .json or .parquet file or a data set of the Hub (`owner/name`) in the LLaVA conversation form, or
in another that is named before it (`vlm-3r:route.json`; see `data/conversations.py`). `name%N` takes N percent of it,
drawn by the seed, as the public code v1.1 does. Media are not touched here.

Rows are kept as one block of bytes: 820,000 of them as Python objects would be copied into every worker process sooner
or later, as counting references writes to them.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
from torch.utils.data import Dataset

from ..data.conversations import Conversation, ConversationForm, read_conversations, stream_dataset

FILE_SUFFIXES = (".jsonl", ".json", ".parquet")
# Keys under which the public data sets say what kind of question a row is.
TASK_KEYS = ("question_type", "task", "problem_type")


@dataclass(frozen=True)
class DataSource:
    """A file or data set of the Hub, the share of its rows that is taken, in (0, 1], and the form of its rows."""

    name: str
    share: float = 1.0
    form: ConversationForm = "llava"

    @classmethod
    def parse(cls, text: str, form: ConversationForm = "llava") -> "DataSource":
        """`name`, `name%N` with N in percent, `form:name` or `form:name%N`; `form` is that of rows where none is named.

        Raises:
            ValueError: if N is not above 0 and at most 100.
        """
        share = 1.0
        rest, percent, number = text.rpartition("%")
        if percent:
            if re.fullmatch(r"\d+(\.\d+)?", number) is None or not 0 < float(number) <= 100:
                raise ValueError(
                    f"sources: {text!r} must end in % and a number above 0 and at most 100, as in mix.jsonl%50."
                )
            text, share = rest, float(number) / 100
        prefix, colon, rest = text.partition(":")
        if colon and prefix in get_args(ConversationForm):
            text, form = rest, cast(ConversationForm, prefix)
        return cls(text, share, form)

    @property
    def stem(self) -> str:
        """A short name for reports."""
        return Path(self.name).stem

    def read(self) -> Iterator[Conversation]:
        """All its rows.

        Raises:
            ValueError: if there is no such file, or as `read_conversations` and `stream_dataset`.
        """
        path = Path(self.name)
        if path.suffix in FILE_SUFFIXES:
            if not path.is_file():
                raise ValueError(f"sources: there is no file {self.name}.")
            return read_conversations(path, self.form)
        if not path.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", self.name) is None:
            raise ValueError(
                f"sources: {self.name!r} is neither a file ({', '.join(FILE_SUFFIXES)}), a folder laid out as a data "
                "set, nor the name of a data set of the Hub (owner/name)."
            )
        return stream_dataset(self.name, form=self.form)


@dataclass(frozen=True)
class TrainingSample:
    """A conversation and the source that it is from."""

    conversation: Conversation
    source: str

    @property
    def label(self) -> str:
        """How reports name it: source and id."""
        return f"{self.source}:{self.conversation.id}"

    @property
    def task(self) -> str:
        """The kind of question, where the row says it, else its source."""
        metadata = self.conversation.metadata
        return next((str(metadata[key]) for key in TASK_KEYS if metadata.get(key)), self.source)


class ConversationDataset(Dataset[TrainingSample]):
    """The rows of all sources, source by source; the order of training is the sampler's.

    Args:
        sources: as `DataSource.parse` reads them.
        form: of the sources that name none.
        seed: of the shares. A source's share does not depend on the other sources.

    Raises:
        ValueError: for a source that is not there, is named twice or has a damaged row, or if no row is left.
    """

    def __init__(self, sources: Sequence[str], form: ConversationForm = "llava", seed: int = 42) -> None:
        parsed = [DataSource.parse(text, form) for text in sources]
        names = [source.name for source in parsed]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: a source is named twice in {list(sources)}.")
        rows: list[bytes] = []
        self.sources = [source.stem for source in parsed]
        counts = []
        for source in parsed:
            packed = [json.dumps(row.to_dict()).encode() for row in source.read()]
            chosen = _share(len(packed), source.share, seed)
            rows += [packed[index] for index in chosen]
            counts.append(len(chosen))
        if not rows:
            raise ValueError(f"sources: {list(sources)} hold no rows.")
        self._ends = np.cumsum([len(row) for row in rows])
        self._source_ends = np.cumsum(counts)
        self._bytes = np.frombuffer(b"".join(rows), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> TrainingSample:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start = self._ends[index - 1] if index else 0
        row = json.loads(self._bytes[start : self._ends[index]].tobytes())
        source = self.sources[int(np.searchsorted(self._source_ends, index, side="right"))]
        return TrainingSample(Conversation.from_dict(row), source)


def _share(num_rows: int, share: float, seed: int) -> list[int]:
    """The rows taken, in their order; at least one of a source that has any."""
    if share == 1.0:
        return list(range(num_rows))
    count = min(num_rows, max(1, round(num_rows * share)))
    return sorted(random.Random(seed).sample(range(num_rows), count))
