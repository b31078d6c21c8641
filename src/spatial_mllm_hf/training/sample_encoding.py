"""A training sample made ready for the model: tokens, labels, and patches or cached features.

Runs in the processes that load data. A sample that cannot be loaded becomes a `FailedSample`, which the collator passes
on to the trainer to be reported and counted; no other takes its place.

Shapes: L tokens, N patches, M patch tokens of VGGT.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from .conversation_messages import Messages, as_messages
from .feature_cache import CachedFeatures, FeatureCache
from .label_masks import answer_labels
from .media import MediaSettings, locate_image, locate_video
from .samples import ConversationDataset, TrainingSample

# What a damaged row or file raises; torchvision's image decoder, RuntimeError.
LOADING_ERRORS = (ValueError, OSError, RuntimeError)
# Of mm_token_type_ids.
IMAGE_TYPE, VIDEO_TYPE = 1, 2
# Characters of English text and of chat markup that make a token, roughly; lengths are for grouping alone.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class EncodedSample:
    """What the collator takes.

    Attributes:
        label, task: of the sample.
        tokens: `input_ids`, `labels` and `mm_token_type_ids`, `[L]` each.
        media: the processor's tensors of images and videos, concatenated over the sample's; with a feature cache,
            cached features in place of the patches that they make needless.
    """

    label: str
    task: str
    tokens: dict[str, torch.Tensor]
    media: dict[str, torch.Tensor]


@dataclass(frozen=True)
class FailedSample:
    """A sample that could not be loaded, and why."""

    label: str
    reason: str


class SampleEncoder:
    """Encodes samples.

    Args:
        processor: of the checkpoint.
        folder: of the media that rows name.
        settings: of frames and sizes.
        max_length: most tokens of a sample, its frames included; a longer one fails.
        cache: features that were computed beforehand.
    """

    def __init__(
        self,
        processor: SpatialMLLMProcessor,
        folder: Path,
        settings: MediaSettings,
        max_length: int | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        self.processor = processor
        self.folder = folder
        self.settings = settings
        self.max_length = max_length
        self.cache = cache

    def __call__(self, sample: TrainingSample) -> EncodedSample | FailedSample:
        """Encodes one sample; never raises for what a row or its media have wrong."""
        try:
            return self._encode(sample)
        except LOADING_ERRORS as error:
            return FailedSample(sample.label, " ".join(str(error).split()))

    def locate(self, sample: TrainingSample) -> tuple[list[str], list[str]]:
        """Its videos and its images.

        Raises:
            FileNotFoundError: if one is not there.
        """
        conversation = sample.conversation
        videos = [locate_video(self.folder, path) for path in conversation.videos]
        return videos, [locate_image(self.folder, path) for path in conversation.images]

    def _encode(self, sample: TrainingSample) -> EncodedSample:
        self.locate(sample)  # says which file is missing; the processor would say less
        messages = as_messages(
            sample.conversation,
            lambda path: locate_video(self.folder, path),
            lambda path: locate_image(self.folder, path),
        )
        tokens, media = self._with_features(sample, messages) if self.cache else self._with_patches(messages)
        length = len(tokens["input_ids"])
        if self.max_length is not None and length > self.max_length:
            raise ValueError(f"it has {length} tokens, more than max_length={self.max_length}")
        answers = sum(message["role"] == "assistant" for message in messages)
        tokens["labels"] = answer_labels(tokens["input_ids"], self.processor.tokenizer, answers)
        return EncodedSample(sample.label, sample.task, tokens, media)

    def _with_patches(self, messages: Messages) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        inputs = self.processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=self.settings.processor_kwargs(),
        )
        tokens = {name: inputs.pop(name)[0] for name in ("input_ids", "mm_token_type_ids")}
        inputs.pop("attention_mask")
        return tokens, dict(inputs)

    def _with_features(
        self, sample: TrainingSample, messages: Messages
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The same tokens; grids and features out of the cache, patches only if the vision tower is not cached."""
        assert self.cache is not None
        videos, images = self.locate(sample)
        found = {"video": [self.cache.find("video", [path]) for path in videos]}
        found["image"] = [self.cache.find("image", images)] if images else []
        media: dict[str, torch.Tensor] = {}
        if any(features is None for kind in found.values() for features in kind) or not self.cache.has_vision_tower:
            tokens, media = self._with_patches(messages)  # which says what is wrong with media that were not cached
            if any(features is None for kind in found.values() for features in kind):
                raise ValueError(f"its media are not in the feature cache {self.cache.folder}")
        whole = {kind: CachedFeatures.join(parts) for kind, parts in found.items() if parts}
        for kind, features in whole.items():
            media[f"{kind}_grid_thw"] = features.grid_thw
            media[f"cached_{kind}_geometry"] = features.geometry
            if features.vision is not None:
                media[f"cached_{kind}_vision"] = features.vision
        if not self.cache.has_vision_tower:
            return tokens, media
        if "video" in whole:
            media["second_per_grid_ts"] = torch.full((len(videos),), float(self.settings.second_per_grid))
        if "image" in whole:
            media["num_images_per_sample"] = torch.tensor([len(images)])
        return self._tokens(messages, {kind: features.grid_thw for kind, features in whole.items()}), media

    def _tokens(self, messages: Messages, grids: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the processor makes of the text once it has seen the media: a placeholder for each merged patch."""
        processor = self.processor
        text = processor.apply_chat_template(messages, tokenize=False)
        for kind, token in (("video", processor.video_token), ("image", processor.image_token)):
            pieces = text.split(token)
            counts = [int(grid.prod()) // processor.image_processor.merge_size**2 for grid in grids.get(kind, ())]
            if len(pieces) != len(counts) + 1:
                raise ValueError(f"its text holds {len(pieces) - 1} {token} for {len(counts)} {kind}s")
            text = pieces[0] + "".join(token * count + piece for count, piece in zip(counts, pieces[1:]))
        ids = torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        types = torch.zeros_like(ids)
        types[ids == processor.image_token_id] = IMAGE_TYPE
        types[ids == processor.video_token_id] = VIDEO_TYPE
        return {"input_ids": ids, "mm_token_type_ids": types}


class EncodedDataset(Dataset[EncodedSample | FailedSample]):
    """Samples encoded when they are asked for."""

    def __init__(self, samples: ConversationDataset, encode: SampleEncoder) -> None:
        self.samples = samples
        self.encode = encode

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> EncodedSample | FailedSample:
        return self.encode(self.samples[index])

    def estimate_lengths(self) -> list[int]:
        """Tokens of every sample without reading media, for batches of similar length."""
        settings, images = self.encode.settings, self.encode.processor.image_processor
        frame = settings.max_pixels // (images.patch_size * images.merge_size) ** 2
        merged = images.temporal_patch_size  # frames of a token
        lengths = []
        for sample in map(self.samples.__getitem__, range(len(self))):
            conversation = sample.conversation
            frames = len(conversation.videos) * settings.num_frames // merged + len(conversation.images)
            characters = sum(len(text) for _, text in conversation.turns)
            lengths.append(characters // CHARACTERS_PER_TOKEN + frames * frame)
        return lengths
