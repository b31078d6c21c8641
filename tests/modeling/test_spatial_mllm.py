"""Spatial-MLLM against the public code, and its behaviour in batches, generation and training."""

import pytest
import torch

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration

from .conftest import Case

CASES = ("v1.1", "v1.1 images", "v1.0")
PAD = 507  # of the reference tokenizer; its end of text never comes up
NO_END = {"pad_token_id": PAD, "eos_token_id": 511, "do_sample": False}


@pytest.fixture(scope="module")
def model(cases: dict[str, Case]) -> SpatialMLLMForConditionalGeneration:
    return cases["v1.1"].load()


def assert_close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("attention", ["default", "eager", "sdpa"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_agree_with_the_public_code(cases: dict[str, Case], name: str, attention: str) -> None:
    case = cases[name]
    model = case.load(**({} if attention == "default" else {"attn_implementation": attention}))
    assert model.dtype == torch.float32
    assert not model.training
    logits = model(**case.inputs).logits
    assert_close(logits[case.kept], case.outputs["logits"][case.kept])


@torch.no_grad()
def test_features_and_positions_agree_with_the_public_code(
    cases: dict[str, Case], model: SpatialMLLMForConditionalGeneration
) -> None:
    case = cases["v1.1"]
    pixels, grids = case.inputs["pixel_values_videos"], case.inputs["video_grid_thw"]
    assert_close(torch.cat(model.get_video_features(pixels, grids).pooler_output), case.outputs["fused_embeds"])
    for number, frames in enumerate(case.frames):
        tokens = model.model.spatial_encoder.encode(frames[None] / 255)[0]
        assert_close(tokens, case.outputs[f"spatial_last_layer_{number}"])
    positions, _ = model.model.get_rope_index(
        case.inputs["input_ids"],
        video_grid_thw=grids,
        second_per_grid_ts=case.inputs["second_per_grid_ts"],
        attention_mask=case.inputs["attention_mask"],
    )
    assert torch.equal(positions, case.outputs["position_ids"])


@torch.no_grad()
def test_without_fusion_the_features_are_the_public_codes_2d_branch(cases: dict[str, Case]) -> None:
    case = cases["v1.1"]
    model = case.load(spatial_fusion_scale=0.0)
    model.model.spatial_encoder.forward = model.model.spatial_encoder.encode = None  # VGGT is not even called
    features = model.get_video_features(case.inputs["pixel_values_videos"], case.inputs["video_grid_thw"])
    assert_close(torch.cat(features.pooler_output), case.outputs["visual_embeds"])


@torch.no_grad()
def test_fusion_scale_is_linear_and_read_at_run_time(cases: dict[str, Case]) -> None:
    case = cases["v1.1"]
    model = case.load()
    arguments = case.inputs["pixel_values_videos"], case.inputs["video_grid_thw"]
    fused = {}
    for scale in (0, 1.0, 0.5):
        model.config.spatial_fusion_scale = scale
        fused[scale] = torch.cat(model.get_video_features(*arguments).pooler_output)
    assert_close(fused[0.5], (fused[0] + fused[1.0]) / 2, atol=1e-5)
    assert (fused[1.0] - fused[0]).abs().max() > 0.1


@torch.no_grad()
def test_v1_0_connector_agrees_with_the_public_code(cases: dict[str, Case]) -> None:
    case = cases["v1.0"]
    model = case.load()
    pixels, grids = case.inputs["pixel_values_videos"], case.inputs["video_grid_thw"]
    assert_close(torch.cat(model.model.get_spatial_features(pixels, grids)), case.outputs["spatial_embeds"])


def test_images_of_a_sample_are_one_scene_in_the_public_code(cases: dict[str, Case]) -> None:
    case = cases["v1.1 images"]
    frames = case.frames
    scenes = [torch.stack(frames[:3]).repeat_interleave(2, dim=0), torch.stack([frames[3]] * 2)]
    model = case.load()
    with torch.no_grad():
        for number, scene in enumerate(scenes):
            tokens = model.model.spatial_encoder.encode(scene[None] / 255)[0]
            assert_close(tokens, case.outputs[f"spatial_last_layer_{number}"])
        apart = model(**{name: value for name, value in case.inputs.items() if name != "num_images_per_sample"}).logits
    difference = (apart - case.outputs["logits"]).abs().amax(dim=-1)
    assert difference[0][case.kept[0]].max() > 1e-2  # three images that do not see each other
    assert difference[1][case.kept[1]].max() < 1e-4  # a single one is its own scene either way


def test_images_of_different_sizes_are_scenes_of_their_own(cases: dict[str, Case]) -> None:
    case = cases["v1.1 images"]
    model, inputs = case.load(), case.inputs
    arguments = inputs["pixel_values"], inputs["image_grid_thw"]
    with torch.no_grad():
        as_one_sample = model.get_image_features(*arguments, torch.tensor([4])).pooler_output
        as_two_samples = model.get_image_features(*arguments, torch.tensor([3, 1])).pooler_output
    for one, two in zip(as_one_sample, as_two_samples):
        assert_close(one, two, atol=1e-5)
    with pytest.raises(ValueError, match=r"num_images_per_sample=\[3\] adds up to 3, but image_grid_thw holds 4"):
        model.get_image_features(*arguments, torch.tensor([3]))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_bfloat16_runs(cases: dict[str, Case], name: str, attention: str) -> None:
    case = cases[name]
    model = case.load(dtype=torch.bfloat16, attn_implementation=attention)
    logits = model(**case.inputs).logits
    assert logits.dtype == torch.bfloat16
    error = (logits.float() - case.outputs["logits"])[case.kept].abs().mean()
    assert error < 0.1 * case.outputs["logits"][case.kept].abs().mean()


# --- generation ---


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_greedy_tokens_agree_with_the_public_code(
    cases: dict[str, Case], model: SpatialMLLMForConditionalGeneration, options: dict
) -> None:
    case = cases["v1.1"]
    generated = model.generate(**case.inputs, max_new_tokens=12, **NO_END, **options)
    assert torch.equal(generated[:, case.inputs["input_ids"].shape[1] :], case.outputs["generated"])


@pytest.mark.parametrize("name", CASES)
def test_the_encoders_run_once_for_an_answer_however_many_beams(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    model = case.load()
    calls = []
    model.model.spatial_encoder.aggregator.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model.model(**case.inputs)
    once, calls[:] = len(calls), []
    generated = model.generate(**case.inputs, max_new_tokens=4, num_beams=3, num_return_sequences=2, **NO_END)
    assert len(calls) == once
    assert generated.shape == (4, case.inputs["input_ids"].shape[1] + 4)


def test_the_best_beam_is_at_least_as_likely_as_the_greedy_answer(
    cases: dict[str, Case], model: SpatialMLLMForConditionalGeneration
) -> None:
    case = cases["v1.1"]
    options = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True, "length_penalty": 0.0}
    beams = model.generate(**case.inputs, num_beams=4, **options, **NO_END)
    greedy = model.generate(**case.inputs, **options, **NO_END)
    likelihood = model.compute_transition_scores(greedy.sequences, greedy.scores, normalize_logits=True).sum(dim=-1)
    assert (beams.sequences_scores >= likelihood - 1e-4).all()


def test_samples_of_one_prompt_differ_and_see_the_same_video(
    cases: dict[str, Case], model: SpatialMLLMForConditionalGeneration
) -> None:
    case = cases["v1.1"]
    torch.manual_seed(0)
    options = {"pad_token_id": PAD, "eos_token_id": 511, "do_sample": True, "max_new_tokens": 8}
    sampled = model.generate(**case.inputs, num_return_sequences=3, **options)
    new = sampled[:, case.inputs["input_ids"].shape[1] :]
    assert sampled.shape[0] == 6
    assert len({tuple(row) for row in new[:3].tolist()}) > 1
    # Teacher forcing a sample of the second prompt on its own gives the likelihood that it has in the batch.
    with torch.no_grad():
        rows = case.inputs["input_ids"].repeat_interleave(3, dim=0)
        assert torch.equal(sampled[:, : rows.shape[1]], rows)


# --- batches ---


def single(inputs: dict[str, torch.Tensor], sample: int) -> dict[str, torch.Tensor]:
    """One sample of a video batch, without its padding."""
    grids = inputs["video_grid_thw"]
    patches = inputs["pixel_values_videos"].split(grids.prod(dim=-1).tolist())
    kept = inputs["attention_mask"][sample].bool()
    return {
        "input_ids": inputs["input_ids"][sample][kept][None],
        "attention_mask": inputs["attention_mask"][sample][kept][None],
        "video_grid_thw": grids[sample][None],
        "pixel_values_videos": patches[sample],
        "second_per_grid_ts": inputs["second_per_grid_ts"][sample][None],
    }


def repad(inputs: dict[str, torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    """The same batch with its padding on one side."""
    ids, mask = torch.full_like(inputs["input_ids"], PAD), torch.zeros_like(inputs["attention_mask"])
    for row, (tokens, kept) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool())):
        length = int(kept.sum())
        place = slice(0, length) if side == "right" else slice(ids.shape[1] - length, None)
        ids[row, place], mask[row, place] = tokens[kept], 1
    return {**inputs, "input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", ["v1.1", "v1.0"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(cases: dict[str, Case], name: str, side: str) -> None:
    case = cases[name]
    inputs = repad(case.inputs, side)
    logits = case.load()(**inputs).logits
    for row in range(2):
        ours = logits[row][inputs["attention_mask"][row].bool()]
        assert_close(ours, case.outputs["logits"][row][case.kept[row]])


@pytest.mark.parametrize("name", ["v1.1", "v1.0"])
@torch.no_grad()
def test_a_batch_agrees_with_its_samples_alone(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    model = case.load()
    for row in range(2):
        logits = model(**single(case.inputs, row)).logits[0]
        assert_close(logits, case.outputs["logits"][row][case.kept[row]])


@torch.no_grad()
def test_clips_of_one_shape_go_through_vggt_together(cases: dict[str, Case]) -> None:
    case = cases["v1.0"]  # two videos of one size
    model = case.load()
    shapes = []
    model.model.spatial_encoder.aggregator.register_forward_hook(
        lambda _, args, __: shapes.append((args[1], args[0][0].shape[0]))
    )
    pixels, grids = case.inputs["pixel_values_videos"], case.inputs["video_grid_thw"]
    together = model.model.get_spatial_features(pixels, grids)
    assert shapes == [(2, 12)]
    for clip, patches in enumerate(pixels.chunk(2)):
        alone = model.model.get_spatial_features(patches, grids[clip : clip + 1])[0]
        assert_close(together[clip], alone, atol=1e-5)


@torch.no_grad()
def test_videos_images_and_text_in_one_batch(
    cases: dict[str, Case], model: SpatialMLLMForConditionalGeneration
) -> None:
    video, image = single(cases["v1.1"].inputs, 1), cases["v1.1 images"].inputs
    kept = image["attention_mask"][1].bool()
    rows = [video["input_ids"][0], image["input_ids"][1][kept], torch.tensor([7, 8, 9])]
    length = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([torch.full((length - len(row),), PAD), row]) for row in rows])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.stack([torch.arange(length) >= length - len(row) for row in rows]).long(),
        "pixel_values_videos": video["pixel_values_videos"],
        "video_grid_thw": video["video_grid_thw"],
        "second_per_grid_ts": video["second_per_grid_ts"],
        "pixel_values": image["pixel_values"][-16:],
        "image_grid_thw": image["image_grid_thw"][-1:],
        "num_images_per_sample": torch.tensor([0, 1, 0]),
    }
    logits = model(**batch).logits
    assert_close(logits[0][-len(rows[0]) :], cases["v1.1"].outputs["logits"][1][cases["v1.1"].kept[1]])
    assert_close(logits[1][-len(rows[1]) :], cases["v1.1 images"].outputs["logits"][1][kept])
    assert_close(logits[2][-3:], model(input_ids=rows[2][None]).logits[0])
    generated = model.generate(**batch, max_new_tokens=3, **NO_END)
    alone = model.generate(**video, max_new_tokens=3, **NO_END)
    assert generated[0, -3:].tolist() == alone[0, -3:].tolist()


@torch.no_grad()
def test_token_types_are_derived_when_the_processor_did_not_give_them(
    cases: dict[str, Case], model: SpatialMLLMForConditionalGeneration
) -> None:
    inputs = cases["v1.1"].inputs
    types = (inputs["input_ids"] == model.config.video_token_id).int() * 2
    assert torch.equal(model(**inputs, mm_token_type_ids=types).logits, model(**inputs).logits)
    assert torch.equal(
        model.generate(**inputs, mm_token_type_ids=types, max_new_tokens=4, **NO_END),
        model.generate(**inputs, max_new_tokens=4, **NO_END),
    )


@torch.no_grad()
def test_embeddings_without_ids_get_the_same_positions(
    cases: dict[str, Case], model: SpatialMLLMForConditionalGeneration
) -> None:
    inputs = cases["v1.1"].inputs
    ids = inputs["input_ids"]
    by_embedding = {name: value for name, value in inputs.items() if name != "input_ids"}
    by_embedding |= {"inputs_embeds": model.get_input_embeddings()(ids)}
    by_embedding |= {"mm_token_type_ids": model.model.token_types(ids)}
    model.model.rope_deltas = None
    assert_close(model(**by_embedding).logits, model(**inputs).logits, atol=1e-5)
    generated = model.generate(**by_embedding, max_new_tokens=4, **NO_END)
    assert torch.equal(generated[:, -4:], cases["v1.1"].outputs["generated"][:, :4])


@torch.no_grad()
def test_placeholders_that_do_not_match_the_videos_are_refused(
    cases: dict[str, Case], model: SpatialMLLMForConditionalGeneration
) -> None:
    inputs = single(cases["v1.1"].inputs, 0)
    short = {**inputs, "input_ids": inputs["input_ids"][:, 5:], "attention_mask": inputs["attention_mask"][:, 5:]}
    short["input_ids"] = torch.where(short["input_ids"] == 504, 1, short["input_ids"])
    with pytest.raises(ValueError, match=r"do not match|More images or videos"):
        model(**short)
    two = cases["v1.1"].inputs
    with pytest.raises(ValueError, match=r"do not match|no video was given"):
        model(
            **{**two, "video_grid_thw": two["video_grid_thw"][:1], "pixel_values_videos": inputs["pixel_values_videos"]}
        )


# --- training ---


def freeze(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def loss_of(model: SpatialMLLMForConditionalGeneration, case: Case) -> torch.Tensor:
    labels = case.inputs["input_ids"].masked_fill(~case.kept, -100)
    return model(**case.inputs, labels=labels).loss


def test_a_frozen_vggt_stays_in_eval_mode_without_gradients(cases: dict[str, Case]) -> None:
    model = cases["v1.1"].load()
    freeze(model.model.spatial_encoder)
    model.gradient_checkpointing_enable()
    model.train()
    assert model.model.connector.training
    assert not any(module.training for module in model.model.spatial_encoder.modules())
    tracked = []
    model.model.connector.register_forward_pre_hook(lambda _, args: tracked.append(args[0].requires_grad))
    loss_of(model, cases["v1.1"]).backward()
    assert tracked
    assert not any(tracked)
    assert model.model.connector.mlp[0].weight.grad.abs().sum() > 0


def test_a_trained_vggt_gets_gradients_and_trains(cases: dict[str, Case]) -> None:
    model = cases["v1.1"].load().train()
    assert model.model.spatial_encoder.training
    loss_of(model, cases["v1.1"]).backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None and "_head." not in name and "mask_token" not in name
    ]
    assert without == []


def test_checkpointed_gradients_equal_plain_ones(cases: dict[str, Case]) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = cases["v1.1"].load().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        loss_of(model, cases["v1.1"]).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_embeddings_and_head_stay_tied(cases: dict[str, Case]) -> None:
    model = cases["v1.1"].load()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    untied = cases["v1.1"].load(tie_word_embeddings=False)
    assert untied.lm_head.weight is not untied.get_input_embeddings().weight
