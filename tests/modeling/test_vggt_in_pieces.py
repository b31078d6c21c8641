"""VGGT's ways of saving time and memory change nothing of what it computes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from activation_memory import peak_bytes
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spatial_mllm_hf import VGGTConfig, VGGTModel
from spatial_mllm_hf.modeling import vggt_aggregator, vggt_blocks, vggt_layer_keeper, vggt_linear
from spatial_mllm_hf.modeling.pieces_spatial_mllm import in_pieces
from spatial_mllm_hf.modeling.vggt_geometry import PointMap, SceneGeometry, decode_pose

HEADS = ("camera", "depth", "points")
OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")


@pytest.fixture(scope="module")
def model(reference: Path) -> VGGTModel:
    return VGGTModel.from_pretrained(reference / "vggt_tiny")


@pytest.fixture(scope="module")
def inputs(reference: Path) -> dict[str, torch.Tensor]:
    return load_file(reference / "vggt_tiny" / "inputs.safetensors")


@pytest.fixture(scope="module")
def expected(reference: Path) -> dict[str, torch.Tensor]:
    return load_file(reference / "vggt_tiny" / "outputs.safetensors")


def assert_close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, wanted, atol=atol, rtol=0)


class Operators(TorchDispatchMode):
    """Remembers the names of the operators that ran, and those that read tensors of two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: set[str] = set()
        self.mixed: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, torch.Tensor)]
        self.ran.add(str(function))
        if len({tensor.device for tensor in tensors}) > 1:
            self.mixed.add(str(function))
        return output


# 30 tokens split the sequences of a frame and the whole scene alike, 100 the whole scene only.
@pytest.mark.parametrize("tokens_at_once", [1, 30, 100])
@pytest.mark.parametrize("clip", ["single", "square", "tall", "wide"])
def test_pieces_agree_with_the_public_code(
    model: VGGTModel,
    inputs: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    clip: str,
    tokens_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vggt_blocks, "WHOLE_UP_TO", tokens_at_once)
    monkeypatch.setattr(vggt_blocks, "TOKENS_AT_ONCE", tokens_at_once)
    monkeypatch.setattr(vggt_aggregator, "FRAMES_AT_ONCE", 1)
    monkeypatch.setattr(vggt_layer_keeper, "FRAMES_AT_ONCE", 2)
    monkeypatch.setattr(vggt_layer_keeper, "PIXELS_AT_ONCE", 1)
    with torch.no_grad():
        output = model(inputs[clip], heads=HEADS, output_hidden_states=True)
    for layer, tokens in enumerate(output.hidden_states):
        assert_close(tokens, expected[f"{clip}.layer{layer}"])
    for name in OUTPUTS:
        assert_close(getattr(output, name), expected[f"{clip}.{name}"])


def test_with_gradients_the_results_are_the_same(model: VGGTModel, inputs: dict[str, torch.Tensor]) -> None:
    with_gradients = model(inputs["square"], heads=HEADS)
    assert with_gradients.world_points.requires_grad
    with torch.no_grad():
        without = model(inputs["square"], heads=HEADS)
    for name in ("last_hidden_state", *OUTPUTS):
        assert_close(getattr(with_gradients, name).detach(), getattr(without, name), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("dim", [0, 1])
def test_in_pieces_joins_what_a_function_makes_of_each_piece(size: int, dim: int) -> None:
    numbers, lengths = torch.arange(35).view(5, 7), []

    def function(some: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lengths.append(some.shape[dim])
        return some + others, torch.stack([some, others], dim=-1)

    summed, stacked = in_pieces(function, (numbers, numbers * 2), size, dim)
    assert torch.equal(summed, numbers * 3)
    assert torch.equal(stacked, torch.stack([numbers, numbers * 2], dim=-1))
    assert max(lengths) == min(size, numbers.shape[dim])
    assert sum(lengths) == numbers.shape[dim]


@torch.no_grad()
def test_geometry_of_frames_that_come_in_chunks(model: VGGTModel, inputs: dict[str, torch.Tensor]) -> None:
    frames, events = inputs["square"][0], []

    def chunks() -> Iterator[torch.Tensor]:
        for start in (0, 1, 3):
            events.append(f"frame {start}")
            yield frames[start : start + 1 if start == 0 else start + 2]

    handle = model.aggregator.patch_embed.register_forward_hook(lambda *_: events.append("embedded"))
    try:
        in_chunks = model.predict_geometry(chunks())
    finally:
        handle.remove()
    assert events[:4] == ["frame 0", "embedded", "frame 1", "embedded"]
    whole = model.predict_geometry(frames)
    assert_close(in_chunks.points, whole.points, atol=1e-5)
    assert_close(in_chunks.confidence, whole.confidence, atol=1e-5)


def test_a_chunk_of_another_form_is_refused(model: VGGTModel) -> None:
    with pytest.raises(ValueError, match=r"multiples of 14, got \[1, 1, 3, 28, 30\]"):
        model.predict_geometry([torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 30)])


@torch.no_grad()
@pytest.mark.parametrize("source", ["points", "depth"])
def test_cameras_come_with_the_points_when_asked_for(
    model: VGGTModel, inputs: dict[str, torch.Tensor], source: str
) -> None:
    frames = inputs["wide"][0]
    plain = model.predict_geometry(frames, source)
    scene = model.predict_geometry(frames, source, return_cameras=True)
    assert type(plain) is PointMap
    assert type(scene) is SceneGeometry
    assert torch.equal(scene.points, plain.points)
    assert torch.equal(scene.confidence, plain.confidence)
    extrinsics, intrinsics = decode_pose(model(frames[None], heads=["camera"]).pose_enc[0], *frames.shape[-2:])
    assert_close(scene.extrinsics, extrinsics, atol=1e-6)
    assert_close(scene.intrinsics, intrinsics, atol=1e-3)


def test_a_model_without_cameras_says_so(model: VGGTModel) -> None:
    config = VGGTConfig(**{**model.config.to_dict(), "heads": ["points"]})
    frames = torch.zeros(2, 3, 28, 28)
    assert VGGTModel(config).predict_geometry(frames).points.shape == (2, 28, 28, 3)
    with pytest.raises(ValueError, match=r"heads must be a collection out of \['points'\]"):
        VGGTModel(config).predict_geometry(frames, return_cameras=True)


@pytest.mark.parametrize("clip", ["square", "wide"])
def test_linear_layers_by_onednn_agree_with_the_public_code(
    model: VGGTModel,
    inputs: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    clip: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(vggt_linear, "mkl_is_slow", lambda: True)
    with torch.no_grad(), Operators() as operators:
        output = model(inputs[clip], heads=HEADS)
    assert "mkldnn._linear_pointwise.default" in operators.ran
    assert_close(output.last_hidden_state, expected[f"{clip}.layer4"])
    assert_close(output.world_points, expected[f"{clip}.world_points"])
    with Operators() as operators:
        model(inputs[clip]).last_hidden_state.sum().backward()
    assert "mkldnn._linear_pointwise.default" not in operators.ran
    model.zero_grad()


@pytest.mark.parametrize(
    ("description", "is_slow"), [("vendor_id : AuthenticAMD", True), ("vendor_id : GenuineIntel", False), (None, False)]
)
def test_mkl_is_passed_over_on_amd(
    description: str | None, is_slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if description is not None:
        (tmp_path / "cpuinfo").write_text(description)
    monkeypatch.setattr(vggt_linear, "CPU_DESCRIPTION", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    vggt_linear.mkl_is_slow.cache_clear()
    try:
        assert vggt_linear.mkl_is_slow() is is_slow
    finally:
        vggt_linear.mkl_is_slow.cache_clear()


def meta_model(layers: int) -> VGGTModel:
    with torch.device("meta"):
        return VGGTModel(
            VGGTConfig(
                embed_dim=64,
                num_hidden_layers=layers,
                num_attention_heads=4,
                patch_embed_num_hidden_layers=2,
                patch_embed_num_attention_heads=4,
                dpt_layer_indices=[0, 1, 2, 3],
                heads=["points"],
            )
        ).eval()


def test_nothing_in_the_encoder_waits_for_a_device() -> None:
    """On meta a number that is asked for is an error, and so it would stop an accelerator; nor is anything copied."""
    with torch.no_grad(), Operators() as operators:
        meta_model(4).encode(torch.empty(1, 4, 3, 56, 56, device="meta"))
    assert operators.mixed == set()


def test_memory_does_not_grow_with_the_number_of_layers() -> None:
    frames = torch.empty(1, 32, 3, 112, 112, device="meta")
    peaks = []
    for layers in (4, 12):
        model = meta_model(layers)
        peaks.append(peak_bytes(lambda model=model: model.encode(frames), [frames, *model.parameters()]))
    assert peaks[0] == peaks[1]
    all_layers = peak_bytes(lambda: model(frames, output_hidden_states=True), [frames, *model.parameters()])
    layer = 32 * (64 + 5) * 128 * 4
    assert all_layers > peaks[0] + 8 * layer


def test_a_dense_head_keeps_less_than_the_layers_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of 2816 channels for the defaults, where four layers of both halves would be 8192."""
    monkeypatch.setattr(vggt_layer_keeper, "PIXELS_AT_ONCE", 1)
    frames = torch.empty(64, 3, 112, 112, device="meta")
    with torch.device("meta"):
        model = VGGTModel(
            VGGTConfig(num_hidden_layers=4, patch_embed_num_hidden_layers=1, dpt_layer_indices=[0, 1, 2, 3])
        )
    given = [frames, *model.parameters()]
    encoding = peak_bytes(lambda: model.encode(frames[None]), given)
    geometry = peak_bytes(lambda: model.predict_geometry(frames), given)
    assert geometry - encoding < 64 * 64 * 2816 * 4 + 32 * 2**20


@pytest.mark.slow
@torch.no_grad()
def test_compiled_blocks_agree(reference: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = VGGTModel.from_pretrained(reference / "vggt_tiny")
    plain = model(inputs["square"], heads=HEADS)
    model.compile_blocks()
    compiled = model(inputs["square"], heads=HEADS)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for name in ("last_hidden_state", *OUTPUTS):
        assert_close(getattr(compiled, name), getattr(plain, name), atol=1e-5)
