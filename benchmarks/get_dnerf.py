"""A published D-NeRF scene, made small: three ``transforms_*.json`` unchanged, pictures resized.

SCENE is a folder of the authors' archive, such as ``data/mutant``. Nothing is downloaded here;
docs/get_data.md says where it comes from.

    python -m benchmarks.get_dnerf data/mutant -o dnerf_mutant_256/ --size 256
"""

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from fsm.errors import InputError
from fsm.files import read_json

SPLITS = ("train", "val", "test")


def reduced(picture: UInt8[np.ndarray, "h w 4"], size: int) -> UInt8[np.ndarray, "s s 4"]:
    """``picture`` with straight alpha at ``size``; averaged with colours weighted by alpha."""
    values = picture.astype(np.float64) / 255.0
    values[..., :3] *= values[..., 3:]
    small = cv2.resize(values, (size, size), interpolation=cv2.INTER_AREA)
    alpha = small[..., 3:]
    small[..., :3] = np.divide(
        small[..., :3], alpha, out=np.zeros_like(small[..., :3]), where=alpha > 0
    )
    return (small * 255.0).round().clip(0, 255).astype(np.uint8)


def convert(scene: Path, out: Path, size: int) -> dict[str, int]:
    """Write all splits of ``scene``; returns the number of pictures of each."""
    counts = {}
    for split in SPLITS:
        name = f"transforms_{split}.json"
        frames = read_json(scene / name)["frames"]
        for frame in frames:
            path = f"{frame['file_path']}.png".removeprefix("./")
            picture = cv2.imread(str(scene / path), cv2.IMREAD_UNCHANGED)
            if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
                raise InputError(f"{scene / path} is no RGBA picture; unpack the archive again.")
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out / path), reduced(picture, size))
        shutil.copy(scene / name, out / name)
        counts[split] = len(frames)
    return counts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("scene", type=Path, help="folder of one scene of the archive")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    given = parser.parse_args(arguments)
    for split, count in convert(given.scene, given.output, given.size).items():
        print(f"{given.output / split}: {count} pictures")


if __name__ == "__main__":
    main()
