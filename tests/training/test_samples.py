"""Sources, shares and rows."""

import pickle
from pathlib import Path

import pytest

from spatial_mllm_hf.data.conversations import Conversation, write_conversations
from spatial_mllm_hf.training.samples import ConversationDataset, DataSource

TURNS = (("human", "Say yes."), ("gpt", "yes"))


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Files of 40 and of 10 rows."""
    paths = []
    for name, count in (("many.jsonl", 40), ("few.parquet", 10)):
        rows = [Conversation(f"{name[0]}{number}", (), (), TURNS, {"task": name[0]}) for number in range(count)]
        write_conversations(rows, tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths[0], paths[1]


def ids(dataset: ConversationDataset) -> list[str]:
    return [dataset[index].conversation.id for index in range(len(dataset))]


def test_sources_follow_each_other_whole(two: tuple[str, str]) -> None:
    dataset = ConversationDataset(two)
    assert ids(dataset) == [f"m{n}" for n in range(40)] + [f"f{n}" for n in range(10)]
    assert (dataset[39].source, dataset[40].source) == ("many", "few")
    assert dataset[0].conversation == Conversation("m0", (), (), TURNS, {"task": "m"})
    assert (dataset[3].label, dataset[3].task) == ("many:m3", "m")
    with pytest.raises(IndexError):
        dataset[50]


def test_a_share_is_drawn_by_the_seed_and_by_nothing_else(two: tuple[str, str]) -> None:
    many, few = two
    half = ids(ConversationDataset([f"{many}%50"], seed=1))
    assert len(half) == len(set(half)) == 20
    assert half != [f"m{n}" for n in range(20)]
    assert half == sorted(half, key=lambda name: int(name[1:]))
    assert ids(ConversationDataset([f"{few}%30", f"{many}%50"], seed=1))[3:] == half
    assert ids(ConversationDataset([f"{many}%50"], seed=2)) != half
    assert len(ConversationDataset([f"{many}%0.1"])) == 1
    assert len(ConversationDataset([f"{many}%12.5"])) == 5


def test_a_source_may_name_its_form(tmp_path: Path) -> None:
    path = tmp_path / "route.json"
    path.write_text(
        '[{"id": 1, "video": "a.mp4", "conversations": [{"from": "human", "value": "<image>\\nWhere?"}, '
        '{"from": "gpt", "value": "left"}]}]'
    )
    dataset = ConversationDataset([f"vlm-3r:{path}"])
    assert dataset[0].conversation.turns[0][1] == "<video>\nWhere?"
    assert dataset[0].task == "route"
    assert DataSource.parse("vsi-590k:mix.jsonl%5") == DataSource("mix.jsonl", 0.05, "vsi-590k")
    assert DataSource.parse("owner/name") == DataSource("owner/name")


def test_a_data_set_of_the_hub_or_a_folder_like_one(tmp_path: Path) -> None:
    folder = tmp_path / "mix"
    write_conversations([Conversation(f"h{number}", (), (), TURNS) for number in range(4)], folder / "train.jsonl")
    assert ids(ConversationDataset([f"{folder}%50"])) == ids(ConversationDataset([f"{folder / 'train.jsonl'}%50"]))


@pytest.mark.parametrize("wrong", ["mix.jsonl%0", "mix.jsonl%101", "mix.jsonl%x", "mix.jsonl%"])
def test_shares_out_of_range(wrong: str) -> None:
    with pytest.raises(ValueError, match="must end in % and a number above 0 and at most 100"):
        DataSource.parse(wrong)


def test_sources_that_are_not_there(two: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*nothing\.jsonl"):
        ConversationDataset([str(tmp_path / "nothing.jsonl")])
    with pytest.raises(ValueError, match=r"is neither a file .* nor the name of a data set"):
        ConversationDataset(["a/b/c"])
    with pytest.raises(ValueError, match="named twice"):
        ConversationDataset([two[0], f"{two[0]}%50"])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="hold no rows"):
        ConversationDataset([str(tmp_path / "empty.jsonl")])


def test_a_copy_in_another_process_holds_the_same_rows(two: tuple[str, str]) -> None:
    dataset = ConversationDataset(two)
    assert ids(pickle.loads(pickle.dumps(dataset))) == ids(dataset)
