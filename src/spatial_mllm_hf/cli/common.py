"""What the verbs share: options, devices, loading, progress and pictures."""

import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    import torch

    from ..processing.processing_spatial_mllm import SpatialMLLMProcessor

DEFAULT_MODEL = "Diankun/Spatial-MLLM-v1.1-Instruct-820K"
EMBEDDED_MODEL = Path(__file__).parents[1] / "checkpoints" / "tiny-rooms"  # trained by `make train-tiny`
TABLE_WIDTH = 110
DTYPES = ("auto", "float32", "bfloat16", "float16")

FrameSampling = Literal["space_aware", "uniform"]
EngineName = Literal["local", "ray"]
ModelOption = typer.Option(
    DEFAULT_MODEL, "--model", "-m", envvar="SPATIAL_MLLM_MODEL", help="Folder or Hub repository of a checkpoint."
)
NamedModelOption = typer.Option(
    None,
    "--model",
    "-m",
    envvar="SPATIAL_MLLM_MODEL",
    help="Folder or Hub repository of a checkpoint. "
    f"[default: {DEFAULT_MODEL}, or where the Hub cannot be reached the tiny model that comes along]",
)
SamplingOption = typer.Option("space_aware", "--frame-sampling", help="How frames are chosen.")
NumFramesOption = typer.Option(
    None, "--num-frames", "-n", help="Frames to choose, even. [default: the processor's, 16]"
)
DeviceOption = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:1, mps, ...")
DtypeOption = typer.Option("auto", "--dtype", help=f"One of {', '.join(DTYPES)}; auto is the checkpoint's own.")
MaxNewTokensOption = typer.Option(None, min=1, help="Longest answer. [default: the checkpoint's, or 256]")
SceneCacheOption = typer.Option(
    None,
    "--scene-cache",
    envvar="SPATIAL_MLLM_SCENES",
    help="Keep scenes that were seen in this folder, for next time.",
)
EngineOption = typer.Option("local", "--engine", help="ray: actors on many GPUs and nodes.")
WorkersOption = typer.Option(1, "--workers", min=1, help="Ray actors, each with a model of its own.")
ContactSheetOption = typer.Option(None, "--contact-sheet", help="Write a picture of the chosen frames here.")
VideoArgument = typer.Argument(help="Video file, URL, or a folder of frames as images.")


def resolve_device(name: str) -> "torch.device":
    """The device meant, checked to be there.

    Raises:
        ValueError: for a name that is no device, or a device that this machine does not have.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r} is not the name of a device; try auto, cpu or cuda.") from error
    count = 1 if device.type == "cpu" else torch.accelerator.device_count() if accelerator else 0
    there = device.type == "cpu" or (accelerator is not None and device.type == accelerator.type)
    if not there or (device.index or 0) >= count:
        have = "cpu" if accelerator is None else f"cpu, {accelerator.type} (x{torch.accelerator.device_count()})"
        raise ValueError(f"--device {name}: there is no such device on this machine, which has: {have}.")
    return device


def resolve_dtype(name: str) -> Any:
    """A torch dtype, or "auto"."""
    import torch

    if name not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {name!r}.")
    return "auto" if name == "auto" else getattr(torch, name)


def check_model(model: str) -> str:
    """The folder or repository, after a look at what can be told without loading.

    Raises:
        ValueError: for a path where no folder is.
    """
    is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", model) is not None
    if not os.path.isdir(model) and not is_repository:
        raise ValueError(f"--model {model}: there is no such folder, and it is not the name of a Hub repository.")
    return model


def model_or_embedded(model: str | None) -> str:
    """The model that is named; else the default one of the Hub; else, without a network, the one that comes along.

    The last knows nothing but synthetic rooms, which is said on stderr.
    """
    if model is not None:
        return model
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        hf_hub_download(DEFAULT_MODEL, "config.json")
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        sys.stderr.write(
            f"spatial-mllm: {DEFAULT_MODEL} is not here and the Hub cannot be reached: a tiny model answers, which "
            "knows synthetic rooms alone. --model names another.\n"
        )
        return str(EMBEDDED_MODEL)
    except HfHubHTTPError:  # the Hub answers: loading says what is wrong
        pass
    return DEFAULT_MODEL


def absolute_model(model: str) -> str:
    """The folder's absolute path, as a worker elsewhere needs it; the name of a repository as it is."""
    return os.path.abspath(model) if os.path.isdir(model) else model


def check_workers(engine: str, workers: int) -> None:
    """
    Raises:
        ValueError: for several workers without Ray.
    """
    if engine == "local" and workers > 1:
        raise ValueError(f"--workers {workers} needs --engine ray; without it there is one, this process.")


def load_processor(model: str) -> "SpatialMLLMProcessor":
    """The checkpoint's processor, ours also where a public checkpoint names Qwen2.5-VL's."""
    from ..processing.processing_spatial_mllm import SpatialMLLMProcessor

    return SpatialMLLMProcessor.from_pretrained(model)


def quiet_transformers() -> None:
    """Keeps transformers' notes and bars off the terminal: the verbs have their own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def resolve_video(video: str) -> Any:
    """A path or URL as it is, a file looked at first; a folder as the sorted list of its images.

    Raises:
        ValueError: for a folder without images, or a file that is not there or no video.
    """
    if video.startswith(("http://", "https://")):
        return video
    if not os.path.isdir(video):
        from ..processing.video_decoding_spatial_mllm import index_video

        index_video(video)  # before a model of gigabytes is loaded for it
        return video
    from ..processing.frame_loading_spatial_mllm import IMAGE_SUFFIXES

    images = [path for path in Path(video).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(f"The folder {video} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return [str(path) for path in sorted(images, key=_natural_key)]


def _natural_key(path: Path) -> list[Any]:
    """frame_2 before frame_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def describe_bytes(size: float) -> str:
    """Bytes in words: "12.3 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def report_console() -> Console:
    """A console for reports on stdout: plain text, lines never broken, so that it can be piped and searched."""
    width = max(TABLE_WIDTH, shutil.get_terminal_size().columns)
    return Console(highlight=False, markup=False, soft_wrap=True, width=width)


def plain_table(*headings: str) -> Table:
    """A table without lines; all columns but the first are numbers."""
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True, overflow="ignore")
    return table


class Stages:
    """Progress through named stages on stderr: a bar on a terminal, a line for each stage elsewhere."""

    def __init__(self, *stages: str) -> None:
        self._stages = stages
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:>8}"), BarColumn(), TimeElapsedColumn(), console=self._console, transient=True
        )
        self._task = self._bar.add_task(stages[0], total=len(stages))
        self._started = time.monotonic()

    def __enter__(self) -> "Stages":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, stage: str) -> None:
        """Moves on to a stage."""
        number = self._stages.index(stage)
        if self._console.is_terminal:
            self._bar.update(self._task, description=stage, completed=number)
        else:
            elapsed = time.monotonic() - self._started
            self._console.print(f"[{number + 1}/{len(self._stages)}] {stage} ({elapsed:.1f} s)", markup=False)

    def end(self) -> None:
        """Takes the bar away, for the answer to come."""
        if self._bar.live.is_started:
            self._bar.stop()


class Counter:
    """Progress through many pieces of work on stderr: a bar on a terminal, a line for every twentieth elsewhere."""

    def __init__(self, pieces: str) -> None:
        self._pieces = pieces
        self._console = Console(stderr=True)
        columns = (TextColumn(pieces), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task(pieces, total=None)
        self._shown = 0

    def __enter__(self) -> "Counter":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """Says how many of how many are done."""
        self._bar.update(self._task, completed=done, total=total)
        step = 20 * done // total
        if step > self._shown and not self._console.is_terminal:
            self._console.print(f"{done} of {total} {self._pieces}", markup=False, highlight=False)
        self._shown = step


def check_picture(path: Path | None) -> None:
    """Looks at the name of a picture to be written before the work is done.

    Raises:
        ValueError: for a suffix that is no picture's.
    """
    from PIL import Image

    if path is not None and path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--contact-sheet {path}: {path.suffix or 'no suffix'} is no picture; try .png or .jpg.")


def write_contact_sheet(frames: "list[dict[str, Any]]", path: Path, columns: int = 4, width: int = 320) -> None:
    """Writes frames `{"index", "timestamp", "image"}` side by side, each with its number and time."""
    from PIL import Image, ImageDraw, ImageFont

    caption, gap = 22, 6
    images = [frame["image"] for frame in frames]
    height = round(width * images[0].height / images[0].width)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = (gap + columns * (width + gap), gap + rows * (height + caption + gap))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        left, top = gap + column * (width + gap), gap + row * (height + caption + gap)
        thumbnail: Image.Image = frame["image"].resize((width, height))
        sheet.paste(thumbnail, (left, top))
        draw.text((left + 2, top + height + 2), describe_frame(frame), fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def describe_frame(frame: dict[str, Any]) -> str:
    """Says "frame 12 at 6.0 s", without the time where it is not known."""
    time_stamp = "" if frame["timestamp"] is None else f" at {frame['timestamp']:.1f} s"
    return f"frame {frame['index']}{time_stamp}"


def load_pipeline(model: str, device: str, dtype: str) -> Any:
    """A question-answering pipeline of a checkpoint; arguments as the options of that name."""
    torch_device, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    check_model(model)
    quiet_transformers()
    from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
    from ..pipelines.pipeline_spatial_mllm import VideoQuestionAnsweringPipeline

    # By our own classes: a public v1.0 checkpoint calls itself plain Qwen2.5-VL, and the Auto classes believe it.
    return VideoQuestionAnsweringPipeline(
        model=SpatialMLLMForConditionalGeneration.from_pretrained(model, dtype=torch_dtype).eval(),
        processor=load_processor(model),
        device=torch_device,
        task="video-question-answering",
    )


def answer_streamer(tokenizer: Any, stages: Stages) -> Any:
    """Prints an answer as it comes, and takes the progress bar away before."""
    from transformers import TextStreamer

    class AnswerStreamer(TextStreamer):
        """Prints tokens as they come; the first takes the progress bar away."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            stages.end()
            super().on_finalized_text(text, stream_end)

    return AnswerStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def open_scene(
    pipe: Any, source: Any, stages: Stages, frame_sampling: str, num_frames: int | None, scene_cache: Path | None
) -> Any:
    """The scene of a video, seen now or read from the folder of scenes; arguments as the options of that name."""
    options = {} if num_frames is None else {"num_frames": num_frames}
    return pipe.open_scene(
        source, cache_dir=scene_cache, frame_sampling=frame_sampling, progress=stages.begin, **options
    )
