"""Renders a walk through a furnished room into a clip and says what stands in it.

python examples/render_room.py OUT.mp4 [SEED]
"""

import sys
from collections import Counter
from pathlib import Path

from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip

NUM_FRAMES, FPS = 64, 8


def main() -> None:
    path, seed = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 7
    room = make_room(seed)
    extrinsics, intrinsics = camera_path(room, NUM_FRAMES)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(render(room, extrinsics, intrinsics).rgb, path, FPS)
    furniture = ", ".join(f"{count} {name}" for name, count in Counter(item.name for item in room.objects).items())
    print(f"Wrote {path}: {NUM_FRAMES} frames of a room with {furniture}.")


if __name__ == "__main__":
    main()
