"""Chosen frames out of videos of some seconds, ten minutes and an hour, against decoding from the start."""

import tempfile
from pathlib import Path

import av
import numpy as np
from baseline.decoding import decode_sequentially
from measuring import Comparison, compare

from spatial_mllm_hf.processing.frame_sampling_spatial_mllm import uniform_indices
from spatial_mllm_hf.processing.video_decoding_spatial_mllm import decode_frames

FPS, WIDTH, HEIGHT = 30, 320, 240


def run(repeats: int) -> list[Comparison]:
    """Index and frames, from a file that has not been looked at."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for gop in (30, 250):
            short = write_clip(Path(folder) / f"short_{gop}.mp4", 300, gop)
            minutes = write_clip(Path(folder) / f"minutes_{gop}.mp4", 600 * FPS, gop)
            hour = repeat_clip(minutes, Path(folder) / f"hour_{gop}.mp4", 6)
            rows += [
                _compare("10 s of video", short, 16, gop, 3 * repeats, target=1),
                _compare("10 s of video", short, 128, gop, 3 * repeats, target=1),
                _compare("10 minutes of video", minutes, 128, gop, repeats),
                _compare("an hour of video", hour, 128, gop, repeats, target=5),
            ]
    return rows


def _compare(name: str, path: Path, wanted: int, gop: int, repeats: int, target: float | None = None) -> Comparison:
    with av.open(str(path)) as container:
        indices = uniform_indices(container.streams.video[0].frames, wanted)
    setting = f"{wanted} frames, a key frame every {gop}"
    ours, plain = decode_frames(path, indices).frames, decode_sequentially(path, indices)
    assert np.array_equal(ours, plain)
    return compare(
        name, setting, lambda: decode_sequentially(path, indices), lambda: decode_frames(path, indices), repeats, target
    )


def write_clip(path: Path, num_frames: int, gop: int) -> Path:
    """H.264 with B-frames: noise that drifts over the picture, a cut every some seconds."""
    noise = np.random.default_rng(0).integers(0, 256, (8, HEIGHT * 2, WIDTH * 2, 3), dtype=np.uint8) // 4 + 90
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "bf": "2", "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(num_frames):
            shift = number % WIDTH
            picture = noise[number // 97 % 8, shift // 2 : shift // 2 + HEIGHT, shift : shift + WIDTH]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def repeat_clip(source: Path, target: Path, times: int) -> Path:
    """The same packets several times, one after the other."""
    with av.open(str(target), "w") as output:
        stream = None
        for repetition in range(times):
            with av.open(str(source)) as container:
                template = container.streams.video[0]
                stream = output.add_stream_from_template(template) if stream is None else stream
                offset = repetition * int(template.duration or 0)
                for packet in container.demux(template):
                    if packet.size:
                        packet.pts += offset
                        packet.dts += offset
                        packet.stream = stream
                        output.mux(packet)
    return target
