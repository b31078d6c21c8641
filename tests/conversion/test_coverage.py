"""Every weight is accounted for, and what cannot be is an error."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from checkpoint_files import REMOVED, change_weights, copy_folder, header_size, weights_of

from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.conversion.coverage import CoverageReport
from spatial_mllm_hf.conversion.planning import fresh_values
from spatial_mllm_hf.conversion.public_formats import plan_from_official, plan_to_official
from spatial_mllm_hf.hub.checkpoint_folders import extract_vggt, from_official, merge, to_official

from .conftest import sources_of

CAMERA = "spatial_encoder.vggt_model.aggregator.camera_token"
TRACK_HEAD = {"spatial_encoder.vggt_model.track_head.a": torch.ones(3)}


class Conversion(NamedTuple):
    """What was read and written, and the account of it."""

    sources: list[Path]
    folder: Path
    report: CoverageReport


@pytest.fixture(scope="module", params=["merge", "merge of points", "from v1.1", "to v1.0", "extract"])
def conversion(
    request: pytest.FixtureRequest,
    plain_qwen: Path,
    vggt: Path,
    v1_1: Path,
    v1_0: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Conversion:
    out = tmp_path_factory.mktemp("conversion") / "out"
    with_tracker = copy_folder(v1_1, out.parent / "with_tracker")
    change_weights(with_tracker, TRACK_HEAD)
    both, shards = [plain_qwen, vggt], {"max_shard_size": "1MB"}
    conversions: dict[str, tuple[list[Path], Callable[..., CoverageReport], dict[str, Any]]] = {
        "merge": (both, merge, shards),
        "merge of points": (both, merge, {"heads": ["points"], "dtype": None}),
        "from v1.1": ([with_tracker], from_official, {"dtype": torch.float16}),
        "to v1.0": ([v1_0], to_official, {}),
        "extract": ([with_tracker], extract_vggt, {}),
    }
    sources, convert, options = conversions[request.param]
    return Conversion(sources, out, convert(*map(Checkpoint, sources), out, **options))


# --- the account ---


def test_every_weight_that_was_read_is_there_once(conversion: Conversion) -> None:
    read = [name for source in conversion.sources for name in weights_of(source)]
    assert Counter(sources_of(conversion.report)) == Counter(read)
    assert set(Counter(read).values()) == {1}


def test_every_weight_that_was_written_is_there_once(conversion: Conversion) -> None:
    written = weights_of(conversion.folder)
    rows = [row for row in conversion.report.rows if row.target is not None]
    assert Counter(row.target for row in rows) == Counter(list(written))
    for row in rows:
        assert (row.numel, row.nbytes) == (written[row.target].numel(), written[row.target].nbytes), row


def test_bytes_are_those_of_the_files_without_their_headers(conversion: Conversion) -> None:
    files = list(conversion.folder.glob("*.safetensors"))
    on_disk = sum(file.stat().st_size - header_size(file) for file in files)
    totals = conversion.report.totals()
    assert sum(totals[fate]["bytes"] for fate in ("taken", "renamed", "new")) == on_disk
    assert sum(part["bytes"] for part in conversion.report.parts().values()) == on_disk
    parameters = sum(tensor.numel() for tensor in weights_of(conversion.folder).values())
    assert sum(conversion.report.dtype.values()) == parameters
    assert sum(part["parameters"] for part in conversion.report.parts().values()) == parameters


def test_fates_follow_from_the_names(conversion: Conversion) -> None:
    for row in conversion.report.rows:
        fate = {(True, False): "dropped", (False, True): "new"}.get((row.target is None, row.source is None))
        assert row.fate == (fate or ("taken" if row.source == row.target else "renamed"))
        assert bool(row.reason) == (row.fate in ("dropped", "new")), row
    totals = conversion.report.totals()
    assert {fate: total["weights"] for fate, total in totals.items()} == {
        fate: [row.fate for row in conversion.report.rows].count(fate) for fate in totals
    }


def test_reasons_add_up(conversion: Conversion) -> None:
    totals, reasons = conversion.report.totals(), conversion.report.reasons()
    for fate in ("dropped", "new"):
        for key in ("weights", "parameters"):
            assert sum(counted[key] for counted in reasons[fate].values()) == totals[fate][key]
    assert None not in reasons["dropped"]


def test_the_report_lies_in_the_folder_as_json(conversion: Conversion) -> None:
    told = json.loads((conversion.folder / "conversion_report.json").read_text())
    assert told == json.loads(json.dumps(conversion.report.to_dict()))
    assert told["totals"] == conversion.report.totals()
    assert [source["name"] for source in told["sources"]] == [source.name for source in conversion.sources]
    (first, *_), row = told["weights"], conversion.report.rows[0]
    assert first == {
        "fate": row.fate,
        "source": row.source,
        "target": row.target,
        "part": row.part,
        "numel": row.numel,
        "nbytes": row.nbytes,
        "reason": row.reason,
    }


def test_what_kinds_of_fate_there_are(plain_qwen: Path, vggt: Path, tmp_path: Path) -> None:
    """Of a merge: Qwen's names stay, VGGT's change, heads go, the connector comes."""
    report = merge(Checkpoint(plain_qwen), Checkpoint(vggt), tmp_path / "out", heads=["points"])
    names = weights_of(vggt)
    left_out = sum(name.startswith(("camera_head.", "depth_head.")) for name in names)
    assert {fate: total["weights"] for fate, total in report.totals().items()} == {
        "taken": len(weights_of(plain_qwen)),
        "renamed": len(names) - left_out,
        "dropped": left_out,
        "new": 5,
    }
    assert report.conversion == "merge"
    assert report.target_format == "v1.1"


# --- strictness ---


@pytest.fixture
def source(v1_1: Path, tmp_path: Path) -> Path:
    return copy_folder(v1_1, tmp_path / "source")


@pytest.mark.parametrize("plan", [plan_from_official, plan_to_official])
def test_an_unknown_weight_is_an_error_with_the_nearest_name(source: Path, plan: Callable) -> None:
    change_weights(source, {"connector.mlp.0.weigth": torch.ones(1)})
    says = r"1 weights are unknown, such as 'connector.mlp.0.weigth' \(nearest known name: 'connector.mlp.0.weight'\)"
    with pytest.raises(ValueError, match=says + r".*--no-strict") as raised:
        plan(Checkpoint(source))
    assert str(source) in str(raised.value)


@pytest.mark.parametrize("plan", [plan_from_official, plan_to_official])
def test_a_missing_weight_is_an_error_with_the_nearest_name(source: Path, plan: Callable) -> None:
    change_weights(source, {"connector.mlp.0.weight": REMOVED})
    with pytest.raises(
        ValueError, match=r"1 weights are missing, such as 'connector.mlp.0.weight' \(nearest known name"
    ):
        plan(Checkpoint(source))


def test_a_misspelt_weight_is_told_with_the_place_that_it_left_empty(source: Path) -> None:
    change_weights(source, {CAMERA: REMOVED, f"{CAMERA}s": torch.ones(1, 2, 1, 32)})
    says = rf"'{CAMERA}s' \(nearest known name: '{CAMERA}'\), and 1 are missing"
    with pytest.raises(ValueError, match=says):
        plan_from_official(Checkpoint(source))


def test_nothing_like_it_is_said_too_and_three_are_shown(source: Path) -> None:
    change_weights(source, {f"connector.{letter * 40}": torch.ones(1) for letter in "QXZKW"})
    with pytest.raises(ValueError, match="5 weights are unknown") as raised:
        plan_from_official(Checkpoint(source))
    assert str(raised.value).count("nothing like it is known") == 3


def test_an_unknown_weight_is_named_as_it_is_in_its_file(plain_qwen: Path, vggt: Path, tmp_path: Path) -> None:
    """Of a merge too, where the places have other names."""
    other = copy_folder(vggt, tmp_path / "other")
    change_weights(other, {"aggregator.camera_tokens": torch.ones(1)})
    with pytest.raises(ValueError, match=r"such as 'aggregator\.camera_tokens' \(nearest"):
        merge(Checkpoint(plain_qwen), Checkpoint(other), tmp_path / "out")


@pytest.mark.parametrize("convert", [from_official, to_official])
def test_without_strictness_the_unknown_is_left_out_and_the_missing_made(
    source: Path, tmp_path: Path, convert: Callable[..., CoverageReport]
) -> None:
    change_weights(source, {"connector.mlp.0.weigth": torch.ones(1), "connector.mlp.0.weight": REMOVED})
    report = convert(Checkpoint(source), tmp_path / "out", strict=False)
    fates = {row.source or row.target: (row.fate, row.reason) for row in report.rows if row.reason}
    assert fates == {
        "connector.mlp.0.weigth": ("dropped", "unknown, left out because strict checking is off"),
        "connector.mlp.0.weight": ("new", "missing, made anew because strict checking is off"),
    }
    written = weights_of(tmp_path / "out")
    assert written.keys() == weights_of(source).keys() - {"connector.mlp.0.weigth"} | {"connector.mlp.0.weight"}
    assert written["connector.mlp.0.weight"].std().item() == pytest.approx(0.02, rel=0.05)


def test_a_wrong_shape_is_an_error_even_then(source: Path) -> None:
    change_weights(source, {CAMERA: torch.ones(1, 2, 1, 33)})
    for strict in (True, False):
        says = rf"'{re.escape(CAMERA)}' has shape \[1, 2, 1, 33\], but the configuration makes it \[1, 2, 1, 32\]"
        with pytest.raises(ValueError, match=says):
            plan_from_official(Checkpoint(source), strict=strict)


def test_a_weight_under_two_names_is_an_error(v1_0: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_0, tmp_path / "source")
    token = weights_of(v1_0)["vggt.aggregator.camera_token"]
    change_weights(source, {"model.spatial_encoder.aggregator.camera_token": token.clone()})
    with pytest.raises(ValueError, match=r"the checkpoint holds it twice|weights are unknown"):
        plan_from_official(Checkpoint(source))


# --- new weights ---


def test_fresh_values_are_told_by_name_and_seed() -> None:
    def make(name: str, shape: tuple[int, ...], std: float = 0.02, seed: int = 0) -> torch.Tensor:
        return torch.cat(list(fresh_values(name, shape, std, seed))).reshape(shape)

    assert not make("a.bias", (7,)).any()
    assert not make("a.bias", (7, 2)).any()
    assert (make("norm.weight", (7,)) == 1).all()
    weight = make("a.weight", (300, 200), std=0.5)
    assert weight.std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.equal(weight, make("a.weight", (300, 200), std=0.5))
    assert not torch.equal(weight, make("a.weight", (300, 200), std=0.5, seed=1))
    assert not torch.equal(weight, make("b.weight", (300, 200), std=0.5))
    assert make("conv.weight", (4, 3, 2, 2)).shape == (4, 3, 2, 2)


def test_fresh_values_come_in_pieces() -> None:
    rows = 2**23 // 2**10
    pieces = list(fresh_values("a.weight", (3 * rows, 2**10)))
    assert [len(piece) for piece in pieces] == [2**24, 2**23]
    assert not torch.equal(pieces[0][: 2**23], pieces[1])
