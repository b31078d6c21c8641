"""Conversations on disk: round trips, the published forms, and every way in which a file can be wrong."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from spatial_mllm_hf.data.conversations import (
    ROWS_AT_A_TIME,
    Conversation,
    read_conversations,
    stream_dataset,
    write_conversations,
)

SUFFIXES = (".jsonl", ".parquet")
ROWS = (
    Conversation(
        "room-1",
        ("scannet/scene0001_00.mp4",),
        (),
        (("human", "<video>\nHow many chairs?"), ("gpt", "<answer>4</answer>"), ("human", "Und Tische?"), ("gpt", "2")),
        {"dataset": "scannet", "answers": ["4", "vier"], "nested": {"seed": 3}},
    ),
    Conversation(
        "pictures", (), ("a.png", "b/ü.png"), (("human", "<image>\n<image>\nDie größere Tür?"), ("gpt", "B."))
    ),
    Conversation("both", ("clip.mp4",), ("map.png",), (("human", "<video> and <image>: where?"), ("gpt", "here"))),
    Conversation("words", (), (), (("human", "Say yes."), ("gpt", "yes"))),
    Conversation("two", ("a.mp4", "b.mp4"), (), (("human", "<video> and <video>: same room?"), ("gpt", "no"))),
)


def row(**changes: Any) -> dict[str, Any]:
    """A row in the LLaVA form; None takes a key away."""
    whole = {
        "id": "a",
        "video": "a.mp4",
        "conversations": [{"from": "human", "value": "<video>\nHow many?"}, {"from": "gpt", "value": "3"}],
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


# --- round trips ---


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_come_back_as_they_were(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"rows{suffix}"
    assert write_conversations(iter(ROWS), path) == len(ROWS)
    assert tuple(read_conversations(path)) == ROWS
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_lines_are_the_llava_form(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_conversations(ROWS[:2], path)
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first == {
        "id": "room-1",
        "video": "scannet/scene0001_00.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\nHow many chairs?"},
            {"from": "gpt", "value": "<answer>4</answer>"},
            {"from": "human", "value": "Und Tische?"},
            {"from": "gpt", "value": "2"},
        ],
        "metadata": {"dataset": "scannet", "answers": ["4", "vier"], "nested": {"seed": 3}},
    }
    assert second.keys() == {"id", "image", "conversations"}
    assert second["image"] == ["a.png", "b/ü.png"]


def test_parquet_has_one_schema_whatever_the_rows_hold(tmp_path: Path) -> None:
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "none.parquet"
    for path, rows in zip(paths, (ROWS[:1], ROWS[1:2], ())):
        write_conversations(rows, path)
    schemas = [pyarrow.parquet.read_schema(path) for path in paths]
    assert schemas[0] == schemas[1] == schemas[2]
    assert list(read_conversations(paths[2])) == []
    (metadata,) = pyarrow.parquet.read_table(paths[0])["metadata"].to_pylist()
    assert json.loads(metadata) == ROWS[0].metadata


def test_parquet_is_written_in_batches(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = (Conversation(str(number), (), (), ROWS[3].turns) for number in range(2 * ROWS_AT_A_TIME + 1))
    assert write_conversations(rows, path) == 2 * ROWS_AT_A_TIME + 1
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 3
    assert [int(found.id) for found in read_conversations(path)] == list(range(2 * ROWS_AT_A_TIME + 1))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_in_the_middle_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    write_conversations(ROWS, path)

    def rows() -> Iterator[Conversation]:
        yield ROWS[0]
        raise KeyError("out of rows")

    with pytest.raises(KeyError):
        write_conversations(rows(), path)
    assert tuple(read_conversations(path)) == ROWS
    assert list(tmp_path.iterdir()) == [path]


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", row(id="a"), row(id="b"))
    with path.open("a") as file:
        file.write("{damaged\n")
    rows = read_conversations(path)
    assert [next(rows).id, next(rows).id] == ["a", "b"]
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: the line is not JSON"):
        next(rows)


# --- what others publish ---


def test_a_path_a_list_and_nothing_are_all_media(tmp_path: Path) -> None:
    image = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "yes"}]
    path = write_lines(
        tmp_path / "mix.jsonl",
        row(video=["a.mp4"]),
        row(video=None, image="a.png", conversations=image),
        row(image=[]),
    )
    assert [(found.videos, found.images) for found in read_conversations(path)] == [
        (("a.mp4",), ()),
        ((), ("a.png",)),
        (("a.mp4",), ()),
    ]


def test_rows_without_an_id_are_numbered_and_other_keys_kept(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mix.jsonl", row(id=None, question_type="room", metadata={"seed": 1}), row(id=0))
    first, second = read_conversations(path)
    assert (first.id, dict(first.metadata)) == ("mix-1", {"question_type": "room", "seed": 1})
    assert second.id == "0"


VLM_3R = row(
    data_source="scannet",
    scene_name="scene0001_00",
    conversations=[
        {"from": "human", "value": "<image>\nThese are frames of a video.\nHow many?\n"},
        {"from": "gpt", "value": "3"},
    ],
)


def test_vlm_3r_says_image_and_means_its_video(tmp_path: Path) -> None:
    path = tmp_path / "vlm3r.json"
    path.write_text(json.dumps([VLM_3R]))
    (found,) = read_conversations(path, "vlm-3r")
    assert (found.videos, found.images) == (("a.mp4",), ())
    assert found.turns[0] == ("human", "<video>\nThese are frames of a video.\nHow many?\n")
    assert found.metadata == {"data_source": "scannet", "scene_name": "scene0001_00"}
    with pytest.raises(ValueError, match=r"vlm3r\.json:1: Conversation 'a': 1 <video> expected .*, got 0"):
        list(read_conversations(path))


def test_vsi_590k_lacks_its_folder_and_keeps_its_images(tmp_path: Path) -> None:
    pictures = [{"from": "human", "value": "<image>\n<image>\nSame?"}, {"from": "gpt", "value": "no"}]
    path = write_lines(
        tmp_path / "vsi.jsonl", VLM_3R, row(video=None, image=["x/1.png", "x/2.png"], conversations=pictures)
    )
    video, images = read_conversations(path, "vsi-590k")
    assert (video.videos, video.turns[0][1].count("<video>")) == (("vsi-590k/a.mp4",), 1)
    assert images.images == ("vsi-590k/x/1.png", "vsi-590k/x/2.png")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_data_sets_of_the_hub_stream(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "me" / "questions"
    write_conversations(ROWS[:1] * 3, folder / f"train{suffix}")
    found = list(stream_dataset(str(folder), "train"))
    assert [each.turns for each in found] == [ROWS[0].turns] * 3
    assert found[0] == ROWS[0]


# --- what is wrong ---


def test_another_suffix_or_form_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows\.csv must end in \.jsonl or \.parquet, got \.csv"):
        write_conversations(ROWS, tmp_path / "rows.csv")
    with pytest.raises(ValueError, match=r"rows must end in \.jsonl, \.json, \.parquet, got no suffix"):
        read_conversations(tmp_path / "rows")
    with pytest.raises(ValueError, match="form must be one of llava, vlm-3r, vsi-590k, got 'alpaca'"):
        read_conversations(tmp_path / "rows.jsonl", "alpaca")  # type: ignore[arg-type]


def test_a_line_that_is_cut_off_says_so(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", row(), row())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: the line is not JSON .* seems to be cut off"):
        list(read_conversations(path))


def test_bytes_that_are_no_text_and_parquet_that_is_cut_off(tmp_path: Path) -> None:
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_bytes(b'{"id": "\xff\xfe"}\n')
    write_conversations(ROWS, table)
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2] + b"PAR1")
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: the line is not JSON"):
        list(read_conversations(lines))
    with pytest.raises(ValueError, match=r"rows\.parquet is not a whole parquet file"):
        list(read_conversations(table))


HUMAN, GPT = {"from": "human", "value": "<video>\nHow many?"}, {"from": "gpt", "value": "3"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conversations": None}, "conversations must be a list of turns, got nothing"),
        ({"conversations": "hello"}, "conversations must be a list of turns, got str 'hello'"),
        ({"conversations": []}, "turns must go human, gpt, human, gpt, ..., got no turns"),
        ({"conversations": [HUMAN]}, r"turns must go human, gpt, .* got \['human'\]"),
        ({"conversations": [GPT, HUMAN]}, r"turns must go human, gpt, .* got \['gpt', 'human'\]"),
        ({"conversations": [HUMAN, {"from": "bard", "value": "3"}]}, "from one of human, gpt, got 'bard'"),
        ({"conversations": [HUMAN, {"value": "3"}]}, r'A turn must be \{"from": ..., "value": ...\}'),
        ({"conversations": [HUMAN, {"from": "gpt", "value": " "}]}, "The value of a turn must be text"),
        ({"video": None}, "'a': 0 <video> expected in what the human says, .* got 1"),
        ({"video": ["a.mp4", "b.mp4"]}, "2 <video> expected in what the human says, .* got 1"),
        ({"video": 3}, "video must be a path or a list of paths, got int '3'"),
        ({"image": "b.png"}, "'a': 1 <image> expected in what the human says, .* got 0"),
        ({"image": ["b.png", ""]}, "image must be a path or a list of paths"),
        ({"metadata": "{"}, "Expecting property name"),
        ({"metadata": [1]}, r"metadata must be an object, got list '\[1\]'"),
    ],
)
def test_a_row_that_is_not_whole_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", row(), row(), row(**changes))
    with pytest.raises(ValueError, match=rf"rows\.jsonl:3: .*{message}"):
        list(read_conversations(path))


def test_rows_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", ["a"])
    for form in ("llava", "vlm-3r", "vsi-590k"):
        with pytest.raises(ValueError, match=r"rows\.jsonl:1: A row must be an object, got a list"):
            list(read_conversations(path, form))  # type: ignore[arg-type]
    whole = tmp_path / "rows.json"
    whole.write_text('{"id": "a"}')
    with pytest.raises(ValueError, match=r"rows\.json must hold an array of rows, got a dict"):
        list(read_conversations(whole))


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_conversations(ROWS, tmp_path / "rows.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for use in (
        lambda: write_conversations(ROWS, tmp_path / "new.parquet"),
        lambda: list(read_conversations(tmp_path / "rows.parquet")),
    ):
        with pytest.raises(ValueError, match=r'needs pyarrow, .* pip install "spatial-mllm-hf\[data\]"'):
            use()
    assert write_conversations(ROWS, tmp_path / "rows.jsonl") == len(ROWS)
