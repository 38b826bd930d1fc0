"""What better depth and motion of the input frames are worth, in pictures beside the path of worlds
and of held-out cameras of rigs: the true layers in place of those that the model finds.

    python -m benchmarks.known_layers world:3103 world:3105 world:3104:ring=12x6

Worlds know what each pixel shows, how far it is and where it goes. Each row puts part of that in
place of the model's own: nothing, depth of what stands, depth of what moves, all depth, and all of
depth, motion and which pixels move. PSNR in dB over all targets, of all pixels, those that move and
those that stand.
"""

import dataclasses
import math

import torch
from torch import Tensor

from benchmarks.common import parser, start
from fsm import FSM
from fsm.datasets.open import open_clip
from fsm.datasets.rendered import RenderedClip
from fsm.errors import InputError
from fsm.evaluate.novel import cameras_beside
from fsm.evaluate.protocols import protocol
from fsm.memory_scene import MemoryScene
from fsm.renderers.heads.reference import InputFrames, ReferenceHead
from fsm.renderers.stereo.layers import Layers
from fsm.views import Views

HW = (128, 128)
LATER = 1.0 / 24.0  # seconds over which a velocity is taken
ROWS = ("nothing", "depth of what stands", "depth of what moves", "depth", "depth and motion")


def filmed(name: str) -> tuple[RenderedClip, Views, Views]:
    """A world, its inputs, and targets with pictures."""
    clip = open_clip(name)
    if not isinstance(clip, RenderedClip):
        raise InputError(f"{name} is not a world; its depth and motion are not known.")
    rig = len(set(clip.camera_ids)) > 1
    plan = protocol("rig" if rig else "novel").plan_for(clip, 0)
    targets = clip.cameras[list(plan.target_index)].resized(HW)
    targets = targets if rig else cameras_beside(clip, list(plan.target_index), HW)
    truth = dataclasses.replace(targets, rgb=clip.truth(targets).rgb)
    return clip, clip.views(list(plan.input_index), HW), truth


def true_layers(clip: RenderedClip, views: Views, scene: MemoryScene) -> Layers:
    """Layers of the input ``views``, in the model's units."""
    frame = scene.frame
    depth = clip.truth(views.without_rgb()).depth
    moving, flow = clip.moving(views), clip.scene_flow(views, views.time + LATER)
    assert depth is not None
    assert moving is not None
    assert flow is not None
    rho = 1.0 / (depth * frame.scale)
    turn = frame.T_model_world[0, :3, :3]
    units = frame.scale / LATER * (0.5 * frame.time_span)
    velocity = torch.einsum("ij,vjhw->vihw", turn, flow) * units
    return Layers(rho[None], moving.float()[None], velocity[None], torch.ones_like(rho)[None])


def known(own: Layers, true: Layers, row: str) -> Layers:
    """The model's layers with part of the truth in their place."""
    moves = true.moving > 0.5
    which = {
        "nothing": torch.zeros_like(moves),
        "depth of what stands": ~moves,
        "depth of what moves": moves,
    }.get(row, torch.ones_like(moves))
    rho = torch.where(which, true.inverse_depth, own.inverse_depth)
    sure = torch.where(which, true.confidence, own.confidence)
    if row == ROWS[-1]:
        return dataclasses.replace(true, inverse_depth=rho, confidence=sure)
    return dataclasses.replace(own, inverse_depth=rho, confidence=sure)


@torch.no_grad()
def pictures(model: FSM, scene: MemoryScene, targets: Views, layers: Layers) -> Tensor:
    """The targets [v 3 h w] as the head shows them with these layers of its inputs."""
    inputs = scene.frame.to_model(scene.observed.batched())
    found = dict(enumerate(layers.split()))
    assert isinstance(model.head, ReferenceHead)
    prepared = InputFrames(inputs, inputs, model.head.stereo.layers, _found=found)
    wanted = scene.frame.to_model(targets.without_rgb().batched())
    views = [model.decode(scene.memory, wanted[[i]], prepared).rgb[0] for i in range(len(targets))]
    return torch.cat(views)


def decibels(error: Tensor) -> float:
    """PSNR of squared errors; NaN of none."""
    return -10.0 * math.log10(float(error.mean())) if error.numel() else math.nan


def main() -> None:
    """Print a table per clip, and their means."""
    args = parser(__doc__)
    args.add_argument("clips", nargs="+")
    args.add_argument("--model", default="fsm-tiny")
    options = args.parse_args()
    start("known layers", model=options.model, size=f"{HW[0]}x{HW[1]}")
    model, table = FSM.from_pretrained(options.model), []
    for name in options.clips:
        clip, inputs, targets = filmed(name)
        scene = model.reconstruct(inputs)
        assert isinstance(scene, MemoryScene)
        assert targets.rgb is not None
        own = model.layers(scene._prepared, list(range(len(inputs))))
        true, moves = true_layers(clip, inputs, scene), clip.moving(targets)
        assert moves is not None
        for row in ROWS:
            off = pictures(model, scene, targets, known(own, true, row)) - targets.rgb
            off = off.square().mean(1, keepdim=True)
            table.append((row, *(decibels(e) for e in (off, off[moves], off[~moves]))))
            print(f"{name:>24}  {row:<22}" + "".join(f"{x:8.2f}" for x in table[-1][1:]))
    for row in ROWS:
        mine = torch.tensor([t[1:] for t in table if t[0] == row]).nanmean(0)
        print(f"{'mean':>24}  {row:<22}" + "".join(f"{x:8.2f}" for x in mine.tolist()))


if __name__ == "__main__":
    main()
