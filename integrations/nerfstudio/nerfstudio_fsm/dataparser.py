"""A nerfstudio dataparser for every clip that FSM toolkit opens."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from nerfstudio.cameras.camera_utils import auto_orient_and_center_poses
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import (
    DataParser,
    DataParserConfig,
    DataparserOutputs,
)
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from fsm.datasets.base import Clip
from fsm.datasets.conventions import opengl_from_opencv
from fsm.datasets.open import open_clip, open_dataset
from fsm.errors import InputError
from fsm.files import atomic_folder, slug


@dataclass
class FSMDataParserConfig(DataParserConfig):
    """What ``fsm-data`` takes on the command line."""

    _target: type = field(default_factory=lambda: FSMDataParser)
    data: Path = Path("demo")
    """A clip: file, folder, or a name that is built in."""
    id: str | None = None
    """Which clip of a data set."""
    pictures: Path = Path("outputs/fsm-pictures")
    """Where frames are written as PNG files, once for each clip."""
    eval_interval: int = 8
    """Every so many frames are held out, unless the clip says which."""


class FSMDataParser(DataParser):
    """Cameras, times and pictures of a clip, in nerfstudio's space."""

    config: FSMDataParserConfig
    includes_time: bool = True

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        """``split``: train, or val or test, which are the same frames."""
        train, held_out = self.frames()
        clip, index = train if split == "train" else held_out
        poses, transform = auto_orient_and_center_poses(
            _opengl(*train), method="up", center_method="poses"
        )
        scale = 1.0 / max(float(poses[:, :3, 3].abs().max()), 1e-6)
        asked = torch.eye(4).repeat(len(index), 1, 1)
        asked[:, :3] = transform @ _opengl(clip, index)
        asked[:, :3, 3] *= scale
        seconds = train[0].cameras.time[train[1]]
        first, last = float(seconds.min()), float(seconds.max())
        cameras = clip.cameras[index]
        fx, fy, cx, cy = cameras.intrinsics.unbind(-1)
        height, width = cameras.hw
        span = last - first if last > first else 1.0
        names, masks = self.written(clip, index)
        return DataparserOutputs(
            image_filenames=names,
            cameras=Cameras(
                camera_to_worlds=asked[:, :3].contiguous(),
                fx=fx.contiguous(),
                fy=fy.contiguous(),
                cx=cx.contiguous(),
                cy=cy.contiguous(),
                width=width,
                height=height,
                camera_type=CameraType.PERSPECTIVE,
                times=(cameras.time - first) / span,
            ),
            scene_box=SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])),
            mask_filenames=masks,
            dataparser_transform=transform,
            dataparser_scale=scale,
            metadata={"seconds": (first, last)},
        )

    def frames(self) -> tuple[tuple[Clip, list[int]], tuple[Clip, list[int]]]:
        """Clip and frames to train on, and those that are held out."""
        data, asked = str(self.config.data), self.config.id
        if asked is None and {"train", "test"} <= set(open_dataset(data).ids):
            train, test = open_clip(data, "train"), open_clip(data, "test")
            return (train, list(range(len(train)))), (test, list(range(len(test))))
        clip = open_clip(data, asked)
        if clip.index_plan is not None:
            plan = clip.index_plan
            return (clip, list(plan.input_index)), (clip, list(plan.target_index))
        every = self.config.eval_interval
        if not 2 <= every <= len(clip):
            raise InputError(
                f"eval-interval is {every}; choose from 2 to the {len(clip)} frames of {data}."
            )
        held_out = list(range(0, len(clip), every))
        return (clip, sorted(set(range(len(clip))) - set(held_out))), (clip, held_out)

    def written(self, clip: Clip, index: list[int]) -> tuple[list[Path], list[Path] | None]:
        """PNG files of frames and of their masks; all are written where they are not there yet."""
        ids = clip.cameras.frame_ids
        assert ids is not None, "the frames of a clip have ids"
        digest = hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:12]
        folder = self.config.pictures / f"{slug(clip.id)}-{digest}"
        if not folder.is_dir():
            with atomic_folder(folder) as target:
                for i in range(len(clip)):
                    _write(clip, i, target)
        names = [folder / f"{i:05d}.png" for i in index]
        masks = [folder / f"{i:05d}.mask.png" for i in index]
        return names, masks if all(m.is_file() for m in masks) else None


def _write(clip: Clip, i: int, folder: Path) -> None:
    view = clip.views([i])
    assert view.rgb is not None, "views of a clip have pixels"
    rgb = (view.rgb[0] * 255.0).round().byte().permute(1, 2, 0).numpy()
    pictures = {folder / f"{i:05d}.png": np.ascontiguousarray(rgb[..., ::-1])}
    if view.mask is not None:
        pictures[folder / f"{i:05d}.mask.png"] = view.mask[0, 0].numpy().astype(np.uint8) * 255
    for path, pixels in pictures.items():
        if not cv2.imwrite(str(path), pixels):
            raise InputError(f"{path} cannot be written; check the folder and the space left.")


def _opengl(clip: Clip, index: list[int]) -> torch.Tensor:
    poses = opengl_from_opencv(clip.cameras.c2w[index].double().numpy())
    return torch.from_numpy(np.asarray(poses)).float()


specification = DataParserSpecification(
    config=FSMDataParserConfig(), description="Any clip that FSM toolkit opens, with its times"
)
