"""Worlds from seeds: every number of a world comes from its seed's own generator, in a fixed order.

Changing the order or the number of draws changes every world.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fsm.datasets.synthetic_draws import Draws
from fsm.datasets.synthetic_world import mapped
from fsm.datasets.world.description import (
    BALL,
    BODIES,
    BOX,
    CYLINDER,
    PILLOW,
    Bodies,
    CameraPath,
    Surfaces,
    Surroundings,
)
from fsm.datasets.world.draw_looks import draw_surfaces

# metres around the middle that bodies of a world of scale 1 keep to and cameras keep out of
ARENA = 2.0
PLAIN, SATELLITE, TORSO, HEAD, LIMBS, POLE, BOARD = 7, 7, 8, 9, slice(10, 14), 14, 15
CLIP_SECONDS = 10.0
_LAYOUTS = 24
_FIRST_SEED = 1_000_003


def draw_worlds(seeds: Sequence[int]) -> tuple[Bodies, Surfaces, Surroundings, CameraPath]:
    """One world per seed, float32 and int32 on the CPU."""
    draws = Draws([seed + _FIRST_SEED for seed in seeds])
    is_open = (draws.unit() < 0.5).double()
    scale = torch.where(
        is_open > 0, torch.exp(draws.between(0.0, math.log(3.0))), torch.ones(()).double()
    )
    angle = draws.between(-math.pi, math.pi)  # where the camera stands
    bodies = _draw_bodies(draws, scale)
    surfaces = draw_surfaces(draws, is_open, scale)
    around = _draw_surroundings(draws, is_open, angle)
    camera = _draw_camera(draws, is_open, scale, angle, around.room)

    def cast(t: Tensor) -> Tensor:
        return t.float() if t.is_floating_point() else t.int()

    return mapped(bodies, cast), mapped(surfaces, cast), mapped(around, cast), mapped(camera, cast)


def _draw_bodies(draws: Draws, scale: Tensor) -> Bodies:
    b = len(scale)
    shape = draws.pick([BALL, BALL, BOX, BOX, BOX, CYLINDER, CYLINDER, PILLOW, PILLOW], BODIES)
    shape[:, TORSO] = draws.pick([BALL, BOX, PILLOW, PILLOW])
    shape[:, HEAD], shape[:, LIMBS], shape[:, POLE], shape[:, BOARD] = BALL, CYLINDER, CYLINDER, BOX
    count = 3 + draws.between(0.0, PLAIN - 2.0).floor()
    present = torch.arange(BODIES)[None] < count[:, None]
    present[:, SATELLITE] = draws.unit() < 0.35
    present[:, TORSO : LIMBS.stop] = draws.unit(1) < 0.45
    present[:, POLE], present[:, BOARD] = draws.unit() < 0.4, draws.unit() < 0.4
    moving = (draws.unit(BODIES) < 0.6) & (torch.arange(BODIES) < POLE)
    moving[:, 0] = True
    floating = moving & (draws.unit(BODIES) < 0.4)
    floating[:, TORSO:] = False

    size = _draw_sizes(draws, shape, floating)
    reach = (
        torch.stack([draws.between(0.15, 0.6, BODIES), draws.between(0.02, 0.15, BODIES)], -1)
        * moving[..., None]
    )
    place = _layout(
        draws, present, size, (ARENA - size.norm(dim=-1) - reach.sum(-1)).clamp_min(0.1)
    )
    height = torch.where(floating, draws.between(0.9, 1.6, BODIES) + size.amax(-1), size[..., 1])
    anchor = torch.stack([place[..., 0], -height, place[..., 1]], -1)
    direction = draws.between(-math.pi, math.pi, BODIES, 2)
    rise = draws.between(0.1, 0.6, BODIES, 2) * floating[..., None]
    swing = torch.stack([direction.cos(), rise, direction.sin()], -1) * reach[..., None]
    period = torch.cat([draws.between(3.0, 9.0, BODIES, 1), draws.between(1.5, 4.0, BODIES, 4)], -1)
    tilt = draws.between(-1.0, 1.0, BODIES, 2) * floating[..., None]
    axis = torch.stack([tilt[..., 0], torch.ones(b, BODIES).double(), tilt[..., 1]], -1)
    soft = moving & (draws.unit(BODIES) < 0.35)
    lifetime = draws.unit(BODIES) < 0.12
    lifetime[:, :1] = lifetime[:, TORSO:] = False
    begins = lifetime & (draws.unit(BODIES) < 0.5)
    moment = draws.between(0.5, 0.8 * CLIP_SECONDS, BODIES)
    never = torch.full_like(moment, 1e6)
    bodies = Bodies(
        shape=shape,
        size=size,
        parent=torch.full((b, BODIES), -1),
        anchor=anchor,
        pivot=torch.zeros_like(anchor),
        swing=swing,
        axis=axis / axis.norm(dim=-1, keepdim=True),
        angle=draws.between(-math.pi, math.pi, BODIES),
        spin=draws.sign(BODIES) * draws.between(0.2, 1.4, BODIES) * moving,
        waves=2.0 * math.pi / period,
        phases=draws.between(-math.pi, math.pi, BODIES, 5),
        rock=draws.between(0.0, 0.3, BODIES) * floating,
        breath=draws.between(0.08, 0.3, BODIES) * soft,
        sway=draws.between(0.1, 0.5, BODIES) * soft,
        born=torch.where(begins, moment, -never),
        gone=torch.where(lifetime & ~begins, moment, never),
    )
    bodies = _assembled(draws, bodies)
    gone = torch.where(present, bodies.gone, -never)
    return _scaled(bodies, scale, gone)


def _draw_sizes(draws: Draws, shape: Tensor, floating: Tensor) -> Tensor:
    """Half extents; one in four is flat or long."""
    base = (
        draws.between(0.16, 0.48, BODIES)[..., None] * torch.where(floating, 0.75, 1.0)[..., None]
    )
    stretch = draws.between(-0.35, 0.35, BODIES, 3)
    odd = draws.unit(BODIES) < 0.25
    which = torch.nn.functional.one_hot((draws.unit(BODIES) * 3).long(), 3)
    stretch = (
        stretch
        + odd[..., None]
        * which
        * draws.sign(BODIES)[..., None]
        * draws.between(0.4, 0.9, BODIES)[..., None]
    )
    round_ = (shape == BALL) & (draws.unit(BODIES) < 0.5)
    size = base * torch.exp(torch.where(round_[..., None], 0.0, stretch))
    size[..., 2] = torch.where(shape == CYLINDER, size[..., 0], size[..., 2])
    thin, tall = draws.between(0.015, 0.05), draws.between(0.6, 1.2)
    size[:, POLE] = torch.stack([thin, tall, thin], -1)
    size[:, BOARD] = torch.stack(
        [draws.between(0.3, 0.7), draws.between(0.25, 0.6), draws.between(0.01, 0.03)], -1
    )
    return size


def _layout(draws: Draws, present: Tensor, size: Tensor, limit: Tensor) -> Tensor:
    """Floor positions [b k 2] up to ``limit`` [b k] from the middle: the widest-spaced of some
    random layouts.
    """
    angle = draws.between(-math.pi, math.pi, _LAYOUTS, BODIES)
    radius = limit[:, None] * draws.unit(_LAYOUTS, BODIES).sqrt()
    place = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)  # [b l k 2]
    reach = size[..., [0, 2]].norm(dim=-1)
    gap = (
        (place[:, :, :, None] - place[:, :, None]).norm(dim=-1)
        - reach[:, None, :, None]
        - reach[:, None, None]
    )
    attached = torch.zeros(BODIES, dtype=torch.bool)
    attached[[SATELLITE, HEAD, *range(LIMBS.start, LIMBS.stop)]] = True
    counts = present & ~attached
    ignored = ~(counts[:, :, None] & counts[:, None]) | torch.eye(BODIES, dtype=torch.bool)
    best = gap.masked_fill(ignored[:, None], 9.0).clamp_max(0.1).sum((-1, -2)).argmax(-1)
    return place[torch.arange(len(place)), best]


def _assembled(draws: Draws, bodies: Bodies) -> Bodies:
    """Join what hangs together: a walker of torso, head and limbs, and a satellite around the first
    body.
    """
    size, parent = bodies.size.clone(), bodies.parent.clone()
    anchor, pivot, axis = bodies.anchor.clone(), bodies.pivot.clone(), bodies.axis.clone()
    spin, rock, angle, swing = (
        bodies.spin.clone(),
        bodies.rock.clone(),
        bodies.angle.clone(),
        bodies.swing.clone(),
    )
    waves, phases = bodies.waves.clone(), bodies.phases.clone()
    leg = draws.between(0.16, 0.32)
    torso = torch.stack(
        [draws.between(0.14, 0.24), draws.between(0.2, 0.32), draws.between(0.1, 0.16)], -1
    )
    size[:, TORSO] = torso
    anchor[:, TORSO, 1] = -(2.0 * leg + torso[:, 1])
    swing[:, TORSO, :, 1] = 0.0
    spin[:, TORSO] *= 0.4
    head = draws.between(0.09, 0.15)
    size[:, HEAD] = head[:, None] * torch.tensor([1.0, 1.2, 1.0]).double()
    anchor[:, HEAD] = torch.stack([0.0 * head, -torso[:, 1] - 1.1 * head, 0.0 * head], -1)
    parent[:, HEAD], angle[:, HEAD], swing[:, HEAD], spin[:, HEAD] = TORSO, 0.0, 0.0, 0.0
    rock[:, HEAD] = 0.4
    thin = draws.between(0.035, 0.07)
    pace, step = 2.0 * math.pi * draws.between(0.5, 1.1), draws.between(0.3, 0.8)
    for i in range(LIMBS.start, LIMBS.stop):
        is_leg, side = i < LIMBS.start + 2, 1.0 if i % 2 else -1.0
        length = leg if is_leg else 0.85 * leg
        size[:, i] = torch.stack([thin, length, thin], -1)
        parent[:, i] = TORSO
        out = 0.55 * torso[:, 0] if is_leg else torso[:, 0] + thin
        anchor[:, i] = torch.stack(
            [side * out, torso[:, 1] * (1.0 if is_leg else -0.75), 0.0 * out], -1
        )
        pivot[:, i] = torch.stack([0.0 * out, -length, 0.0 * out], -1)
        axis[:, i] = torch.tensor([1.0, 0.0, 0.0]).double()
        angle[:, i], spin[:, i], swing[:, i], rock[:, i] = 0.0, 0.0, 0.0, step
        waves[:, i, 2], phases[:, i, 2] = (
            pace,
            phases[:, TORSO, 2] + (0.0 if (side > 0) == is_leg else math.pi),
        )
    parent[:, SATELLITE], swing[:, SATELLITE] = 0, 0.0
    size[:, SATELLITE] *= 0.4
    away = size[:, 0].norm(dim=-1) + size[:, SATELLITE].norm(dim=-1) + 0.05
    anchor[:, SATELLITE] = torch.stack([away, -draws.between(0.0, 0.3), 0.0 * away], -1)
    keep = torch.ones_like(rock)
    keep[:, SATELLITE:] = 0.0
    return Bodies(
        bodies.shape, size, parent, anchor, pivot, swing, axis, angle, spin, waves, phases, rock,
        bodies.breath * keep, bodies.sway * keep, bodies.born, bodies.gone,
    )  # fmt: skip


def _scaled(bodies: Bodies, scale: Tensor, gone: Tensor) -> Bodies:
    """The same bodies in a world ``scale`` times as large."""
    s = scale[:, None, None]
    return Bodies(
        bodies.shape, bodies.size * s, bodies.parent, bodies.anchor * s, bodies.pivot * s,
        bodies.swing * s[..., None],
        bodies.axis, bodies.angle, bodies.spin, bodies.waves, bodies.phases, bodies.rock,
        bodies.breath, bodies.sway,
        bodies.born, gone,
    )  # fmt: skip


def _draw_surroundings(draws: Draws, is_open: Tensor, angle: Tensor) -> Surroundings:
    room = torch.stack(
        [draws.between(3.2, 5.0), draws.between(1.3, 2.0), draws.between(3.2, 5.0)], -1
    )
    aside = angle + draws.sign() * draws.between(0.4, 2.2)
    distance, height = draws.between(1.0, 2.4), 2.0 * room[:, 1] - draws.between(0.1, 0.4)
    inside = torch.stack([distance * aside.sin(), -height, -distance * aside.cos()], -1)
    climb = draws.between(0.25, 1.3)
    sun = 400.0 * torch.stack(
        [climb.cos() * aside.sin(), -climb.sin(), -climb.cos() * aside.cos()], -1
    )
    warmth = draws.between(-0.5, 1.0)[:, None]
    tint = torch.cat([1.0 + 0.12 * warmth, torch.ones_like(warmth), 1.0 - 0.2 * warmth], -1)
    cool = torch.cat([1.0 - 0.1 * warmth, torch.ones_like(warmth), 1.0 + 0.14 * warmth], -1)
    ambient, key = draws.between(0.07, 0.4)[:, None], draws.between(0.35, 1.5)[:, None]
    key = torch.where(is_open[:, None] > 0, 0.55 * key, key)
    return Surroundings(
        room=room,
        open=is_open,
        lamp=torch.where(is_open[:, None] > 0, sun, inside),
        colour=tint * key,
        above=cool * ambient,
        below=tint * ambient * 0.7,
        falloff=torch.where(is_open > 0, 0.0, 0.12),
        softness=torch.exp(draws.between(math.log(0.01), math.log(0.2))),
        fog=is_open * torch.exp(draws.between(math.log(0.0005), math.log(0.02))),
    )


def _draw_camera(
    draws: Draws, is_open: Tensor, scale: Tensor, angle: Tensor, room: Tensor
) -> CameraPath:
    """Half of the cameras only shake, as half of Stereo4D's do; the others move along, to, around
    or past the bodies.
    """
    b = len(scale)
    still = draws.unit() < 0.45
    keep_out = (ARENA + 0.35) * scale
    far = torch.where(is_open > 0, keep_out * draws.between(1.05, 1.8), draws.between(2.5, 3.2))
    eye = torch.stack(
        [far * angle.sin(), -draws.between(0.6, 1.9) * scale.sqrt(), -far * angle.cos()], -1
    )
    aim = (
        torch.stack(
            [draws.between(-0.6, 0.6), -draws.between(0.3, 0.9), draws.between(-0.6, 0.6)], -1
        )
        * scale[:, None]
    )
    fast = torch.exp(draws.between(math.log(0.5), math.log(4.5)))
    speed = torch.where(still, 0.0, torch.where(is_open > 0, fast, fast.clamp_max(1.2)))
    style = draws.unit()
    turned = angle + torch.where(
        style < 0.35, draws.sign() * math.pi / 2, draws.between(-math.pi, math.pi)
    )
    velocity = torch.stack(
        [speed * turned.sin(), 0.1 * speed * draws.between(-1.0, 1.0), -speed * turned.cos()], -1
    )
    circles = (style > 0.7) & ~still
    orbit = torch.where(circles, draws.sign() * (speed / far).clamp_max(0.35), 0.0)
    velocity = torch.where(circles[:, None], 0.1 * velocity, velocity)
    walks = (speed > 0.5) & ~circles
    strength = torch.exp(draws.between(math.log(0.05), math.log(1.0)))[:, None, None]
    hand = torch.tensor([0.012, 0.012, 0.012, 0.06, 0.06, 0.06]).double()
    shares = torch.tensor([1.0, 0.5, 0.15, 0.0]).double()[:, None]
    shake = (
        hand
        * shares
        * draws.between(0.3, 1.0, 4, 6)
        * torch.where(still[:, None, None], 0.3, 1.0)
        * strength
    )
    shake[..., 3:] *= far[:, None, None] / 2.5
    shake[:, 3, 1] = 0.025 * walks  # every step of a walk
    frequency = torch.tensor([0.3, 0.8, 1.6, 1.9]).double()[:, None]
    side = torch.stack([room[:, 0] - 0.35, 2.0 * room[:, 1] - 0.3, room[:, 2] - 0.35], -1)
    return CameraPath(
        hfov=torch.deg2rad(
            torch.where(draws.unit() < 0.5, draws.between(57.0, 63.0), draws.between(38.0, 80.0))
        ),
        eye=eye,
        aim=aim,
        velocity=velocity,
        follow=draws.unit() * (draws.unit() < 0.4),
        orbit=orbit,
        period=draws.between(14.0, 40.0),
        phase=draws.between(-1.2, 1.2),
        keep_out=keep_out,
        limit=torch.where(is_open[:, None] > 0, 1e3, side),
        shake=shake,
        shake_omega=2 * math.pi * frequency * draws.between(0.8, 1.2, 4, 6),
        shake_phase=draws.between(-math.pi, math.pi, 4, 6).expand(b, 4, 6),
    )
