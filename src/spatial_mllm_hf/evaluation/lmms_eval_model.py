"""Spatial-MLLM as a model of lmms-eval (0.7.3); imported by lmms-eval alone, through `lmms_eval_plugin.py`.

    lmms-eval --model spatial_mllm --model_args pretrained=FOLDER,num_frames=16 --tasks vsibench --batch_size 8

lmms-eval shares the documents out among its processes by their number, so a scene is seen once by each process that has
a question about it. `lmms_eval_requests.py` does the answering.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from ..pipelines.pipeline_spatial_mllm import VideoQuestionAnsweringPipeline
from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from ..processing.video_processing_spatial_mllm import FrameSampling, SpatialMLLMVideoProcessor
from .lmms_eval_requests import ChatRequest, RequestAnswerer

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
MODEL_TYPE = "spatial-mllm"


class SpatialMLLM(lmms):
    """Answers what lmms-eval's tasks ask about videos and images.

    Args:
        pretrained: folder or Hub repository of a checkpoint, public ones as they are.
        device: "auto", "cpu", "cuda:1", ...; several processes take one accelerator each, whatever this says.
        dtype: "auto" is the checkpoint's own.
        batch_size: questions on one scene that are answered together.
        frame_sampling: how frames are chosen.
        num_frames, num_candidate_frames, candidate_size: None is the checkpoint's own, in general 16, 128 and 518.
        max_new_tokens: longest answer where a task names none. Tasks do: `--gen_kwargs max_new_tokens=1024` overrides.
        extract_answer: whether the text of the last `<answer>` block is the answer where there is one. Tasks of
            lmms-eval know no such blocks.

    Raises:
        ValueError: for a batch size that is no number above 0, an unknown dtype, or options of frames out of range.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str = "auto",
        dtype: Dtype = "auto",
        batch_size: int | str = 1,
        frame_sampling: FrameSampling = "space_aware",
        num_frames: int | None = None,
        num_candidate_frames: int | None = None,
        candidate_size: int | None = None,
        max_new_tokens: int | None = None,
        extract_answer: bool = True,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(
                f"batch_size must be a number above 0, got {batch_size!r}; lmms-eval's 'auto' is not known."
            )
        if dtype not in get_args(Dtype):
            raise ValueError(f"dtype must be one of {', '.join(get_args(Dtype))}, got {dtype!r}.")
        sampling = {
            "frame_sampling": frame_sampling,
            "num_frames": num_frames,
            "num_candidate_frames": num_candidate_frames,
            "candidate_size": candidate_size,
        }
        sampling = {name: value for name, value in sampling.items() if value is not None}
        SpatialMLLMVideoProcessor(**sampling)  # says what is out of range before gigabytes are loaded
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        takes_own = device == "auto" or self._world_size > 1
        self._device = self.accelerator.device if takes_own else torch.device(device)
        self.answerer: RequestAnswerer | None = RequestAnswerer(
            _load_pipeline(pretrained, self._device, dtype),
            sampling,
            settings={"max_new_tokens": max_new_tokens},
            batch_size=int(batch_size),
            extract=extract_answer,
        )

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts what its processes tell each other."""
        return self._device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers in the order of the requests."""
        assert self.answerer is not None, "clean() has let go of the model"
        answers = [""] * len(requests)
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding") as bar:
            for number, answer in self.answerer(self._read(requests)):
                context, _, settings, *_ = requests[number].args
                self.cache_hook.add_partial("generate_until", (context, settings), answer)
                answers[number] = answer
                bar.update()
        return answers

    def _read(self, requests: Sequence[Instance]) -> Iterator[ChatRequest]:
        for request in requests:
            _, make_messages, settings, document, task, split = request.args
            messages = ChatMessages(messages=make_messages(self.task_dict[task][split][document]))
            yield ChatRequest(messages.to_hf_messages(), settings)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError(
            "spatial_mllm generates answers and does not score given ones: leave out tasks of loglikelihoods."
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("spatial_mllm answers one question at a time: leave out tasks of several rounds.")

    def clean(self) -> None:
        """Lets go of the model, for which lmms-eval asks when all answers are there."""
        self.answerer = None
        super().clean()


def _load_pipeline(pretrained: str, device: torch.device, dtype: str) -> VideoQuestionAnsweringPipeline:
    # By the class of our own name: a public v1.0 checkpoint calls itself plain Qwen2.5-VL.
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(AutoConfig.for_model(MODEL_TYPE))]
    return VideoQuestionAnsweringPipeline(
        model=model_class.from_pretrained(pretrained, dtype=dtype).eval(),
        processor=SpatialMLLMProcessor.from_pretrained(pretrained),
        device=device,
        task="video-question-answering",
    )
