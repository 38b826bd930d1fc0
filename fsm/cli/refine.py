"""``fsm refine``: a scene's Gaussians fitted to the frames they came from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fsm.cli.common import (
    Backend,
    announce_time,
    check_backend,
    check_output,
    choose_device,
    flag,
    parse_size,
    save_settings,
    working_hw,
)
from fsm.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from fsm.datasets.base import Clip
    from fsm.evaluate.metrics import ImageScore
    from fsm.refine import Beside, Chosen, RefineConfig, Refined, Start
    from fsm.refine.split import Split
    from fsm.renderers.gaussians.scene import GaussianScene
    from fsm.views import SceneFrame, Views

NEW, NONE = "new", "none"
SCENE, FOUND = "the scene", "Gaussians found in the clip"


@dataclass(frozen=True)
class Refine:
    """Sharpen a scene of Gaussians by fitting it to its clip."""

    scene: tyro.conf.Positional[Annotated[str, flag("SCENE", "")]]
    """A scene of Gaussians, or `new` to start from the clip alone."""
    clip: tyro.conf.Positional[Annotated[str, flag("CLIP", "")]]
    """The clip it was made from: file or folder, or `demo`, or `world:SEED`."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/refined")
    """Where the refined scene goes; an interrupted run continues there."""
    steps: Annotated[int, flag("N")] = 3000
    """Optimiser steps."""
    start: Literal["auto", "scene"] = "auto"
    """auto: from the scene, from what stands and what moves, or from Gaussians found in the clip,
    whichever a short trial makes the best of; scene: from the scene.
    """
    model: Annotated[str, flag("MODEL")] = "fsm-tiny"
    """What finds depth and shows views beside the frames: name, folder or hub name; none: nothing.
    """
    id: Annotated[str | None, flag("NAME", "the only clip, or the training split")] = None
    """Which clip, where there are several."""
    frames: Annotated[Literal["auto", "inputs", "all"], flag("WHICH")] = "auto"
    """Refine on the scene's inputs or on all frames not held out; auto: all if the clip brings a
    test split.
    """
    hold_out: Annotated[int | None, flag("K", "the clip's own split, else the unused frames")] = (
        None
    )
    """Judge by every K-th frame; 0 holds out none."""
    hold_cameras: Annotated[str | None, flag("LIST", "none")] = None
    """Judge by whole cameras of a rig: names, or places from 0, with commas."""
    hold_back: Annotated[int | None, flag("N", "about one in eight")] = None
    """Most input frames kept out of the steps to choose when to stop; 0: none, and no promise."""
    size: Annotated[
        str | None, flag("WxH", "the scene's; for `new` the clip's, up to 512 high")
    ] = None
    """Size of the frames refined on."""
    exposure: bool = False
    """Find the exposure of every input frame; the scene is in their mean."""
    poses: bool = False
    """Correct the cameras of the input frames."""
    gaussians: Annotated[int, flag("N")] = 40_000
    """Most Gaussians of the refined scene."""
    seed: Annotated[int, flag("N")] = 0
    """Seed of all random choices."""
    set: Annotated[tuple[str, ...], flag("KEY=VALUE ...", "none")] = ()
    """Other settings, such as rates.means=1e-3 density.every=0."""
    static: bool = False
    """Take all frames for one moment: nothing moves, and there is no clock."""
    fix_poses: bool = False
    """Take the nearest rotation of scaled or sheared poses."""
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""
    backend: Backend = "auto"
    """What rasterises Gaussians: gsplat (CUDA), cpu, plain (slow); auto: gsplat where it works."""

    def run(self) -> None:
        """Refine, judge, write and say where."""
        import os

        # Steps are short: threads that spin while they wait for each other take four times as long
        # on a busy machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
        from fsm.config import to_dict
        from fsm.datasets.open import open_clip, open_dataset
        from fsm.evaluate.rigs import named
        from fsm.refine import Start, best_start, held_back, never_worse, refine
        from fsm.refine.report import pictures
        from fsm.refine.split import split_clip

        config = self._config()
        check_refined_folder(self.output, self.scene)
        device = choose_device(self.device)
        check_backend(self.backend, device)
        scene = None if self.scene == NEW else open_gaussians(self.scene, device)
        clip = open_clip(self.clip, self.id, self.fix_poses, self.static)
        dataset = open_dataset(self.clip, self.fix_poses, self.static)
        cameras = () if self.hold_cameras is None else named(self.hold_cameras)
        split = split_clip(dataset, clip, scene, self.frames, self.hold_out, cameras)
        native = clip.cameras.hw
        hw = parse_size(self.size, scene.hw) if scene else working_hw(self.size, native)
        inputs = clip.views(split.inputs, hw)
        own = None
        if scene is not None:
            kept = held_back(inputs, config.hold_back)
            without = self._without(clip, split.inputs, kept, device) if kept else None
            own = Start(SCENE, scene.with_backend(self.backend), without)
        starts, beside = self._starts(own, inputs, config, device)
        start, tries = best_start(starts, inputs, config)
        truth = split.judge.views(split.held_out, hw) if split.held_out else inputs
        before = pictures((own or start).scene, truth)
        identity = {
            "scene": self.scene,
            "clip": clip.source,
            "model": self.model,
            "start": start.name,
            "frames": list(split.inputs),
            "hw": list(hw),
        }
        run = refine(
            start.scene,
            inputs,
            config,
            without=start.without,
            beside=beside,
            out=self.output,
            identity=identity,
            tell=lambda seconds: announce_time(seconds, hw, self.size),
        )
        if own is not None and start is not own:
            run = never_worse(run, own, inputs, config)
        run.scene.save(self.output)  # replaces the folder, and the run's state with it
        about = _about(start, tries, run)
        resolved = {"size": f"{hw[1]}x{hw[0]}", "device": device, "config": to_dict(config)}
        self._report(run, split, truth, before, about, resolved)

    def _report(
        self,
        run: "Refined",
        split: "Split",
        truth: "Views",
        before: "Tensor",
        about: dict[str, Any],
        resolved: dict[str, Any],
    ) -> None:
        """Write numbers, pictures and settings, and say what came out."""
        from fsm.refine.report import known_motion, pictures, write_report

        judged_by = (
            "held-out frames" if split.held_out else "the frames refined on (none is held out)"
        )
        about = {
            **about,
            "judged_by": judged_by,
            "seconds": round(run.seconds, 1),
            "held_back": None if run.chosen is None else _described(run.chosen, split.inputs),
            "corrections": run.corrections,
        }
        moving, after = known_motion(split.judge, truth), pictures(run.scene, truth)
        means = write_report(self.output, truth, before, after, about, moving)
        indices = {"frames": list(split.inputs), "held_out": list(split.held_out)}
        save_settings(self.output / "refine.yaml", self, **indices, **resolved)
        print(
            f"{len(split.inputs)} frames at {resolved['size']}, {self.steps} steps in "
            f"{run.seconds:.0f} s"
        )
        print(_verdict(run.chosen))
        for name, score in means.items():
            print(
                f"{name:6} {score.psnr:.2f} dB, {_parts(score)}SSIM {score.ssim:.4f} on "
                f"{len(truth)} {judged_by}"
            )
        print(f"scene in {self.output}")

    def _without(
        self, clip: "Clip", frames: Sequence[int], kept: Sequence[int], device: str
    ) -> "GaussianScene | None":
        """The scene as its model makes it without the ``frames`` numbered ``kept``; None where it
        is not known how it was made.
        """
        from fsm.cli.reconstruct import SETTINGS
        from fsm.files import read_yaml
        from fsm.model import FSM
        from fsm.renderers.gaussians.scene import GaussianScene

        path = Path(self.scene) / SETTINGS
        if self.scene == NEW or not path.is_file():
            return None
        made = read_yaml(path)
        held = {frames[i] for i in kept}
        rest = [i for i in made["frames"] if i not in held]
        if len(rest) == len(made["frames"]) or not rest:
            return None
        model = FSM.from_pretrained(made["model"], device=device)
        scene = model.reconstruct(clip.views(rest, parse_size(made["size"], clip.cameras.hw)))
        assert isinstance(scene, GaussianScene), "a scene of Gaussians was made by such a decoder"
        return scene.with_backend(self.backend)

    def _starts(
        self, own: "Start | None", inputs: "Views", config: "RefineConfig", device: str
    ) -> "tuple[list[Start], Beside | None]":
        """What to start from, the scene itself first, and views beside the inputs as the model
        shows them. Without frames held back nothing could choose: the first, and no such views.
        """
        from fsm.model import FSM
        from fsm.refine import Start, from_model, held_back
        from fsm.views import SceneFrame

        kept = held_back(inputs, config.hold_back)
        seen = inputs[[i for i in range(len(inputs)) if i not in set(kept)]]
        frame = SceneFrame.fit(inputs) if own is None else own.scene.frame
        starts, beside = [] if own is None else [own], None
        if self.model != NONE and kept:
            model = FSM.from_pretrained(self.model, device=device)
            layered, beside = from_model(model, inputs, frame.to(device), config)
            starts.append(layered)
        if not starts or kept:
            found = new_scene(seen, frame, config.density.most, self.seed, device)
            starts.append(Start(FOUND, found))
        if self.start == "scene" and own is not None:
            starts = [own]
        return [replace(s, scene=s.scene.with_backend(self.backend)) for s in starts], beside

    def _config(self) -> "RefineConfig":
        """Flags and ``--set`` as one config."""
        import dataclasses

        from fsm.config import from_dict, to_dict
        from fsm.refine import Density, RefineConfig
        from fsm.train.config import overridden

        density = dataclasses.replace(Density(), most=self.gaussians)
        values = to_dict(
            RefineConfig(
                steps=self.steps,
                exposure=self.exposure,
                poses=self.poses,
                density=density,
                hold_back=self.hold_back,
                seed=self.seed,
            )
        )
        return from_dict(RefineConfig, overridden(values, self.set), "--set")


def _about(start: "Start", tries: dict[str, float], run: "Refined") -> dict[str, Any]:
    """What was refined, as plain values; says which start was taken."""
    if tries:
        shown = ", ".join(f"{name} {value:.2f} dB" for name, value in tries.items())
        print(f"starts from {start.name}; frames held back after a short trial: {shown}")
    return {
        "started_from": start.name,
        "tried": {name: round(value, 3) for name, value in tries.items()},
        "gaussians": {"before": len(start.scene.gaussians), "after": len(run.scene.gaussians)},
    }


def _parts(score: "ImageScore") -> str:
    """PSNR of what moves and of what stands, where they are told apart."""
    if score.psnr_moving is None or score.psnr_standing is None:
        return ""
    return f"moving {score.psnr_moving:.2f}, standing {score.psnr_standing:.2f} dB, "


def _described(chosen: "Chosen", frames: Sequence[int]) -> dict[str, Any]:
    """``chosen`` as plain values, its frames by their numbers in the clip."""
    return {
        "frames": [frames[i] for i in chosen.frames],
        "psnr": [[step, round(value, 3)] for step, value in chosen.curve],
        "chosen_step": chosen.step,
    }


def _verdict(chosen: "Chosen | None") -> str:
    """What the held-back frames say, in a sentence."""
    if chosen is None:
        return (
            "no frame was held back to choose when to stop, so views that no frame saw may be "
            "worse than before"
        )
    scores = dict(chosen.curve)
    if chosen.step == 0:
        return (
            "refinement did not improve views it did not see; the scene is as it was "
            f"({scores[0]:.2f} dB on {len(chosen.frames)} frames held back)"
        )
    return (
        f"{len(chosen.frames)} frames held back went from {scores[0]:.2f} to "
        f"{scores[chosen.step]:.2f} dB after {chosen.step} steps, which are kept"
    )


def open_gaussians(path: str, device: str) -> "GaussianScene":
    """A scene that has Gaussians; a scene memory without is an ``InputError``."""
    from fsm.open_scene import open_scene
    from fsm.renderers.gaussians.scene import GaussianScene

    scene = open_scene(path, device)
    if not isinstance(scene, GaussianScene):
        raise InputError(
            f"{path} is a scene memory without Gaussians; reconstruct with --decoder lrm, "
            "or give `new`."
        )
    return scene


def new_scene(
    inputs: "Views", frame: "SceneFrame | None", most: int, seed: int, device: str
) -> "GaussianScene":
    """Gaussians found in ``inputs`` alone, half as many as there may be; in the space of ``frame``
    where that is given.
    """
    from fsm.refine import constant_background, random_gaussians
    from fsm.renderers.gaussians.scene import GaussianScene
    from fsm.views import SceneFrame

    frame = SceneFrame.fit(inputs) if frame is None else frame.to("cpu")
    gaussians = random_gaussians(inputs, frame, max(1, most // 2), seed)
    background = constant_background(inputs)
    return GaussianScene(
        gaussians.to(device),
        frame.to(device),
        inputs.to(device),
        background=None if background is None else background.to(device),
    )


def check_refined_folder(path: Path, scene: str) -> None:
    """Refuse the scene's own folder, anything that is neither a scene nor an interrupted run, and
    unwritable places.
    """
    from fsm.refine.run import SETTINGS

    if path.exists() and path.resolve() == Path(scene).resolve():
        raise InputError(f"output is {path}, the scene that is refined; choose another folder.")
    known = any((path / name).is_file() for name in ("scene.json", SETTINGS))
    if path.exists() and not known and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            f"output is {path}, which exists and is not a scene; choose another folder."
        )
    check_output(path)
