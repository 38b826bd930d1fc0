"""``fsm reconstruct``: posed clip to scene, or many clips to as many scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from fsm.cli.common import (
    announce_time,
    check_output,
    choose_device,
    flag,
    parse_size,
    reading_seconds,
    save_settings,
    working_hw,
)
from fsm.errors import InputError
from fsm.files import read_yaml, slug
from fsm.runs import OtherSettings, check_settings, tracked

if TYPE_CHECKING:
    from fsm.datasets.base import Clip, ClipDataset
    from fsm.model import FSM
    from fsm.views import Views

T = TypeVar("T")
DEFAULT_MODELS = {"lvsm": "fsm-tiny", "lrm": "fsm-tiny-lrm"}
SETTINGS = "reconstruct.yaml"
"""Written into a scene last: a scene that has it is whole."""


@dataclass(frozen=True)
class Reconstruct:
    """Read a posed clip into a scene (memory or Gaussians) that can be rendered from anywhere."""

    clip: tyro.conf.Positional[Annotated[str, flag("CLIP", "")]]
    """Clip file or folder, or `demo`, or `world:SEED`; a list of clips makes a scene of each.
    Of a film or photos without cameras these are found first, as `fsm poses` does.
    """
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/scene")
    """Where the scene goes (an older one is replaced); of a list FOLDER/NAME, those that are there
    are kept.
    """
    decoder: Annotated[Literal["lvsm", "lrm"] | None, flag("NAME", "the model's, else lvsm")] = None
    """lvsm: a memory that pictures are decoded from; lrm: 4D Gaussians, to refine, export and edit.
    """
    model: Annotated[str | None, flag("MODEL", "fsm-tiny or fsm-tiny-lrm, by decoder")] = None
    """Bundled name, folder, or hub name owner/name."""
    id: Annotated[str | None, flag("NAME", "the only clip")] = None
    """Only this clip, where there are several."""
    shard: Annotated[str | None, flag("I/N", "torchrun's or Slurm's")] = None
    """Do only part I of N of a list."""
    inputs: Annotated[int, flag("N")] = 32
    """Frames read, spread evenly over the clip; 0 reads all."""
    frames: Annotated[Literal["train", "all"], flag("WHICH")] = "train"
    """train: leave out the test frames of a clip that brings its own split; all: read them, too.
    """
    hold_out: Annotated[int, flag("K")] = 0
    """Leave out every K-th frame (to evaluate on); 0 leaves out none."""
    hold_cameras: Annotated[str | None, flag("LIST", "none")] = None
    """Leave out whole cameras of a rig: names, or places from 0, with commas."""
    size: Annotated[str | None, flag("WxH", "the clip's, up to 512 pixels high")] = None
    """Working size; frames are scaled to cover it and cropped about the centre."""
    static: bool = False
    """Take all frames for one moment: nothing moves, and there is no clock."""
    fix_poses: bool = False
    """Take the nearest rotation of scaled or sheared poses."""
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""

    def run(self) -> int:
        """Reconstruct and say where; status 1 if a clip of a list could not be read."""
        from fsm.checkpoint import weights_hash
        from fsm.cli.poses import with_cameras
        from fsm.datasets.open import open_clip, open_dataset

        given = with_cameras(self.clip, self.output)
        dataset = open_dataset(given, self.fix_poses, self.static)
        if self.id is None and len(dataset) > 1 and "train" not in dataset.ids:
            return self._many(dataset)
        if self.shard is not None:
            raise InputError(
                f"shard is {self.shard}, but {self.clip} is one clip; give a list of clips."
            )
        check_scene_folder(self.output)
        clip = open_clip(given, self.id, self.fix_poses, self.static)
        self._frames(clip)
        model = self._model(choose_device(self.device))
        settings = self._settings(clip, model, weights_hash(model))
        inputs = self._inputs(clip, settings)
        announce_time(reading_seconds(model, inputs), inputs.hw, self.size)
        print(self._one(clip, inputs, model, settings, self.output))
        return 0

    def _many(self, dataset: "ClipDataset") -> int:
        """The clips of a list that are this process's, less those that are done."""
        from fsm.checkpoint import weights_hash
        from fsm.shards import find_shard, forget_missing, note_missing, why_missing

        shard = find_shard(self.shard)
        if (self.output / "scene.json").exists():
            raise InputError(
                f"output is {self.output}, which is a scene; choose another folder for "
                "those of a list."
            )
        check_output(self.output)
        model = self._model(choose_device(self.device))
        weights = weights_hash(model)
        mine = shard.part(dataset.ids)
        forget_missing(self.output, mine)
        for id in tracked(mine, "Reconstructing", len(mine)):
            folder = self.output / slug(id)
            try:
                clip = dataset.clip(id)
                settings = self._settings(clip, model, weights)
                made = folder / SETTINGS
                if made.is_file():
                    check_settings(made, settings, read_yaml(made))
                else:
                    check_scene_folder(folder)
                    inputs = self._inputs(clip, settings)
                    print(f"{id}: {self._one(clip, inputs, model, settings, folder)}")
            except OtherSettings:
                raise
            except InputError as error:  # one bad clip must not stop the others
                note_missing(self.output, id, str(error))
        missing = {
            id: why for id in dataset.ids if (why := why_missing(self.output, id)) is not None
        }
        done = sum(
            id not in missing and (self.output / slug(id) / SETTINGS).is_file()
            for id in dataset.ids
        )
        # under torchrun an earlier status 1 would end the others
        whole = done + len(missing) == len(dataset)
        print(
            f"shard {shard} done; " * (shard.count > 1)
            + f"{done} of {len(dataset)} scenes in {self.output}"
        )
        for id, why in missing.items() if whole else ():
            print(f"missing {id}: {why}")
        return 1 if whole and missing else 0

    def _settings(self, clip: "Clip", model: "FSM", weights: str) -> dict[str, Any]:
        """What flags, clip and the hash of the weights come to: all that a scene depends on."""
        index = self._frames(clip)
        hw = model.working_size(working_hw(self.size, clip.cameras.hw))
        return {
            "clip": self.clip,
            "id": clip.id,
            "decoder": model.decoder,
            "model": self._name,
            "weights": weights,
            "frames": index,
            "size": f"{hw[1]}x{hw[0]}",
            "fix_poses": self.fix_poses,
            "static": self.static,
        }

    def _frames(self, clip: "Clip") -> list[int]:
        """Numbers of the frames to read."""
        from fsm.evaluate.rigs import frames_of, named

        plan = clip.index_plan if self.frames == "train" else None
        free = range(len(clip)) if plan is None else plan.input_index
        if self.hold_cameras is not None:
            held = frames_of(clip, named(self.hold_cameras))
            free = [i for i in free if i not in held]
        return choose_frames(free, self.inputs, self.hold_out, clip.cameras.time.tolist())

    def _inputs(self, clip: "Clip", settings: dict[str, Any]) -> "Views":
        """The frames to read, with a warning where they say nothing about depth."""
        inputs = clip.views(settings["frames"], parse_size(settings["size"], clip.cameras.hw))
        if only_turns(inputs):
            print(
                f"warning: {clip.source}: the camera only turns, so motion says nothing about "
                "depth; what moves with depth is the model's guess."
            )
        return inputs

    def _one(
        self,
        clip: "Clip",
        inputs: "Views",
        model: "FSM",
        settings: dict[str, Any],
        folder: Path,
    ) -> str:
        """Read one clip into ``folder``; what was made, in a sentence."""
        import time

        from fsm.memory_scene import MemoryScene

        index, size = settings["frames"], settings["size"]
        began = time.perf_counter()
        scene = model.reconstruct(inputs)
        seconds = time.perf_counter() - began
        if isinstance(scene, MemoryScene):
            scene.save(folder)
        else:
            scene.save(folder, compact=True)
        save_settings(folder / SETTINGS, self, **settings, device=str(model.device))
        made = "memory" if isinstance(scene, MemoryScene) else f"{len(scene.gaussians):,} Gaussians"
        return (
            f"{len(index)} of {len(clip)} frames at {size} read in {seconds:.2f} s; {made} in "
            f"{folder}"
        )

    @property
    def _name(self) -> str:
        return self.model or DEFAULT_MODELS[self.decoder or "lvsm"]

    def _model(self, device: str) -> "FSM":
        from fsm.model import FSM

        model = FSM.from_pretrained(self._name, device=device)
        if self.decoder not in (None, model.decoder):
            raise InputError(
                f"decoder is {self.decoder}, but {self.model} is an {model.decoder} model; "
                "leave one out."
            )
        return model


def choose_frames(
    frames: Sequence[int], inputs: int, hold_out: int, times: Sequence[float] | None = None
) -> list[int]:
    """``inputs`` of ``frames``, evenly spread (0: all); without every ``hold_out``-th of the clip
    (0: with them).

    ``times`` of all frames of the clip tell which of them share a moment. Of a rig whole moments
    are taken where two or more fit, else other cameras at every moment.
    """
    from fsm.refine.split import every

    if inputs < 0:
        raise InputError(f"--inputs is {inputs}; give 0, or a number of at least 1.")
    free = sorted(set(frames) - every(hold_out, max(frames) + 1))
    if inputs == 0 or inputs >= len(free):
        return free
    groups: dict[float, list[int]] = {}
    for i in free if times is None else sorted(free, key=lambda i: times[i]):
        groups.setdefault(i if times is None else times[i], []).append(i)
    moments, most = list(groups.values()), max(len(g) for g in groups.values())
    if len(moments) == 1 or most == 1:
        return sorted(_even([i for group in moments for i in group], inputs))
    if inputs >= 2 * most:
        return sorted(i for group in _even(moments, inputs // most) for i in group)
    chosen = _even(moments, inputs)
    each = inputs // len(chosen)
    turned = (g[k % len(g) :] + g[: k % len(g)] for k, g in enumerate(chosen))
    return sorted(i for group in turned for i in _even(group, each))


def _even(values: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of them, from the first to the last."""
    count, last = min(count, len(values)), len(values) - 1
    return [values[round(i * last / max(1, count - 1))] for i in range(count)]


def only_turns(cameras: "Views") -> bool:
    """Whether several views share one place: without parallax, depth cannot be had from motion."""
    centre = cameras.c2w[:, :3, 3].double()
    apart = float((centre - centre[0]).norm(dim=-1).max())
    turned = float((cameras.c2w[:, :3, :3] - cameras.c2w[0, :3, :3]).abs().max())
    return apart <= 1e-6 * (1.0 + float(centre.abs().max())) and turned > 1e-4


def check_scene_folder(path: Path) -> None:
    """Refuse to replace anything that is not a scene, and places that cannot be written to."""
    if (
        path.exists()
        and not (path / "scene.json").is_file()
        and (not path.is_dir() or any(path.iterdir()))
    ):
        raise InputError(
            f"output is {path}, which exists and is not a scene; choose another folder."
        )
    check_output(path)
