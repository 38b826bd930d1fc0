"""Cameras that ``fsm poses`` finds beside those that a posed clip brings.

    python -m benchmarks.poses CLIP [CLIP ...] --frames 40

Of each clip some frames, evenly spread, are written as pictures without cameras: as a film where
the clip has a clock, else as photos. The cameras found are moved onto the given ones by the
similarity that fits their centres best (Umeyama 1991). Printed are how many were registered; the
root mean square distance of centres over the length of the path (in the order of the frames); the
median error of the rotation from one frame to the next; the error of the focal length; seconds.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import parser, start
from fsm.cli.reconstruct import choose_frames
from fsm.datasets.base import Clip
from fsm.datasets.open import open_clip
from fsm.errors import InputError
from fsm.poses import Found, PoseOptions, find_poses


def aligned(found: np.ndarray, given: np.ndarray) -> np.ndarray:
    """``found`` centres [v 3] moved onto the ``given`` ones by a similarity (Umeyama 1991)."""
    a, b = found - found.mean(0), given - given.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(sign)).sum() / (a**2).sum()
    return scale * a @ (u @ sign @ vt).T + given.mean(0)


def turns(c2w: np.ndarray) -> np.ndarray:
    """Rotations from one camera to the next, [v-1 3 3]."""
    return c2w[:-1, :3, :3].transpose(0, 2, 1) @ c2w[1:, :3, :3]


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between rotations."""
    trace = np.einsum("nij,nij->n", a, b)
    return np.degrees(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0)))


def write_pictures(clip: Clip, frames: list[int], folder: Path) -> None:
    """Frames of a clip as PNG files."""
    from PIL import Image

    for k, i in enumerate(frames):
        rgb = clip.views([i]).rgb
        assert rgb is not None
        picture = (rgb[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{k:04d}.png")


def judged(clip: Clip, frames: list[int], output: Path, found: Found) -> str:
    """A row of the table."""
    made = open_clip(output)
    kept = _numbers(output)
    given = clip.cameras[[frames[k] for k in kept]].c2w.double().numpy()
    own = made.cameras.c2w.double().numpy()
    centres = given[:, :3, 3]
    way = float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
    off = aligned(own[:, :3, 3], centres) - centres
    drift = float(np.sqrt((off**2).sum(1).mean())) / way
    turn = float(np.median(angles(turns(own), turns(given))))
    focal, true = found.focals[0][0], float(clip.cameras.intrinsics[0, 0])
    return (
        f"{found.registered:3d}/{found.asked:<3d} {drift:8.2%} {turn:8.3f} deg "
        f"{focal / true - 1:+8.2%} {found.error:6.2f} px"
    )


def _numbers(output: Path) -> list[int]:
    from fsm.files import read_json

    return [f["frame_idx"] for f in read_json(output / "clip.json")["frames"]]


def main() -> None:
    """Print a row for each clip."""
    args = parser(__doc__)
    args.add_argument("clips", nargs="+")
    args.add_argument("--frames", type=int, default=40)
    options = args.parse_args()
    start("poses", frames=options.frames)
    for name in options.clips:
        clip = open_clip(name)
        frames = choose_frames(range(len(clip)), options.frames, 0)
        with tempfile.TemporaryDirectory() as scratch:
            pictures, output = Path(scratch) / "pictures", Path(scratch) / "clip"
            pictures.mkdir()
            write_pictures(clip, frames, pictures)
            began = time.perf_counter()
            rate = None if clip.static else 10.0
            try:
                found = find_poses(pictures, output, PoseOptions(fps=rate))
                row = judged(clip, frames, output, found)
            except InputError as error:
                row = f"refused: {error}"
            seconds = time.perf_counter() - began
        print(f"{Path(name).name[:32]:32s} {row} {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
