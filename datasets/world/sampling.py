"""Worlds from seeds: every number of a world comes from its seed's own generator, in a fixed order.

Changing the order or the count of numbers changes every world.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fsm.datasets.world.description import (
    BALL,
    BODIES,
    BOX,
    CYLINDER,
    PILLOW,
    Bodies,
    CameraMotion,
    Surfaces,
    Surroundings,
    mapped,
)
from fsm.datasets.world.sample_looks import sample_surfaces
from fsm.datasets.world.sampler import SeededSampler

# metres around the middle that bodies of a world of scale 1 keep to and cameras keep out of
ARENA = 2.0
PLAIN, SATELLITE, TORSO, HEAD, LIMBS, POLE, BOARD = 7, 7, 8, 9, slice(10, 14), 14, 15
CLIP_SECONDS = 10.0
_LAYOUTS = 24


def sample_worlds(seeds: Sequence[int]) -> tuple[Bodies, Surfaces, Surroundings, CameraMotion]:
    """One world per seed, float32 and int32 on the CPU."""
    random = SeededSampler(seeds)
    is_open = (random.unit() < 0.5).double()
    scale = torch.where(
        is_open > 0, torch.exp(random.between(0.0, math.log(3.0))), torch.ones(()).double()
    )
    angle = random.between(-math.pi, math.pi)  # where the camera stands
    bodies = _sample_bodies(random, scale)
    surfaces = sample_surfaces(random, is_open, scale)
    around = _sample_surroundings(random, is_open, angle)
    camera = _sample_camera(random, is_open, scale, angle, around.room)

    def cast(t: Tensor) -> Tensor:
        return t.float() if t.is_floating_point() else t.int()

    return mapped(bodies, cast), mapped(surfaces, cast), mapped(around, cast), mapped(camera, cast)


def _sample_bodies(random: SeededSampler, scale: Tensor) -> Bodies:
    b = len(scale)
    shape = random.pick([BALL, BALL, BOX, BOX, BOX, CYLINDER, CYLINDER, PILLOW, PILLOW], BODIES)
    shape[:, TORSO] = random.pick([BALL, BOX, PILLOW, PILLOW])
    shape[:, HEAD], shape[:, LIMBS], shape[:, POLE], shape[:, BOARD] = BALL, CYLINDER, CYLINDER, BOX
    count = 3 + random.between(0.0, PLAIN - 2.0).floor()
    present = torch.arange(BODIES)[None] < count[:, None]
    present[:, SATELLITE] = random.unit() < 0.35
    present[:, TORSO : LIMBS.stop] = random.unit(1) < 0.45
    present[:, POLE], present[:, BOARD] = random.unit() < 0.4, random.unit() < 0.4
    moving = (random.unit(BODIES) < 0.6) & (torch.arange(BODIES) < POLE)
    moving[:, 0] = True
    floating = moving & (random.unit(BODIES) < 0.4)
    floating[:, TORSO:] = False

    size = _sample_sizes(random, shape, floating)
    reach = (
        torch.stack([random.between(0.15, 0.6, BODIES), random.between(0.02, 0.15, BODIES)], -1)
        * moving[..., None]
    )
    place = _layout(
        random, present, size, (ARENA - size.norm(dim=-1) - reach.sum(-1)).clamp_min(0.1)
    )
    height = torch.where(floating, random.between(0.9, 1.6, BODIES) + size.amax(-1), size[..., 1])
    anchor = torch.stack([place[..., 0], -height, place[..., 1]], -1)
    direction = random.between(-math.pi, math.pi, BODIES, 2)
    rise = random.between(0.1, 0.6, BODIES, 2) * floating[..., None]
    swing = torch.stack([direction.cos(), rise, direction.sin()], -1) * reach[..., None]
    period = torch.cat(
        [random.between(3.0, 9.0, BODIES, 1), random.between(1.5, 4.0, BODIES, 4)], -1
    )
    tilt = random.between(-1.0, 1.0, BODIES, 2) * floating[..., None]
    axis = torch.stack([tilt[..., 0], torch.ones(b, BODIES).double(), tilt[..., 1]], -1)
    soft = moving & (random.unit(BODIES) < 0.35)
    lifetime = random.unit(BODIES) < 0.12
    lifetime[:, :1] = lifetime[:, TORSO:] = False
    begins = lifetime & (random.unit(BODIES) < 0.5)
    moment = random.between(0.5, 0.8 * CLIP_SECONDS, BODIES)
    never = torch.full_like(moment, 1e6)
    bodies = Bodies(
        shape=shape,
        size=size,
        parent=torch.full((b, BODIES), -1),
        anchor=anchor,
        pivot=torch.zeros_like(anchor),
        swing=swing,
        axis=axis / axis.norm(dim=-1, keepdim=True),
        angle=random.between(-math.pi, math.pi, BODIES),
        spin=random.sign(BODIES) * random.between(0.2, 1.4, BODIES) * moving,
        waves=2.0 * math.pi / period,
        phases=random.between(-math.pi, math.pi, BODIES, 5),
        rock=random.between(0.0, 0.3, BODIES) * floating,
        breath=random.between(0.08, 0.3, BODIES) * soft,
        sway=random.between(0.1, 0.5, BODIES) * soft,
        born=torch.where(begins, moment, -never),
        gone=torch.where(lifetime & ~begins, moment, never),
    )
    bodies = _assembled(random, bodies)
    gone = torch.where(present, bodies.gone, -never)
    return _scaled(bodies, scale, gone)


def _sample_sizes(random: SeededSampler, shape: Tensor, floating: Tensor) -> Tensor:
    """Half extents; one in four is flat or long."""
    base = (
        random.between(0.16, 0.48, BODIES)[..., None] * torch.where(floating, 0.75, 1.0)[..., None]
    )
    stretch = random.between(-0.35, 0.35, BODIES, 3)
    odd = random.unit(BODIES) < 0.25
    which = torch.nn.functional.one_hot((random.unit(BODIES) * 3).long(), 3)
    stretch = (
        stretch
        + odd[..., None]
        * which
        * random.sign(BODIES)[..., None]
        * random.between(0.4, 0.9, BODIES)[..., None]
    )
    round_ = (shape == BALL) & (random.unit(BODIES) < 0.5)
    size = base * torch.exp(torch.where(round_[..., None], 0.0, stretch))
    size[..., 2] = torch.where(shape == CYLINDER, size[..., 0], size[..., 2])
    thin, tall = random.between(0.015, 0.05), random.between(0.6, 1.2)
    size[:, POLE] = torch.stack([thin, tall, thin], -1)
    size[:, BOARD] = torch.stack(
        [random.between(0.3, 0.7), random.between(0.25, 0.6), random.between(0.01, 0.03)], -1
    )
    return size


def _layout(random: SeededSampler, present: Tensor, size: Tensor, limit: Tensor) -> Tensor:
    """Floor positions [b k 2] up to ``limit`` [b k] from the middle: the widest-spaced of some
    random layouts.
    """
    angle = random.between(-math.pi, math.pi, _LAYOUTS, BODIES)
    radius = limit[:, None] * random.unit(_LAYOUTS, BODIES).sqrt()
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


def _assembled(random: SeededSampler, bodies: Bodies) -> Bodies:
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
    leg = random.between(0.16, 0.32)
    torso = torch.stack(
        [random.between(0.14, 0.24), random.between(0.2, 0.32), random.between(0.1, 0.16)], -1
    )
    size[:, TORSO] = torso
    anchor[:, TORSO, 1] = -(2.0 * leg + torso[:, 1])
    swing[:, TORSO, :, 1] = 0.0
    spin[:, TORSO] *= 0.4
    head = random.between(0.09, 0.15)
    size[:, HEAD] = head[:, None] * torch.tensor([1.0, 1.2, 1.0]).double()
    anchor[:, HEAD] = torch.stack([0.0 * head, -torso[:, 1] - 1.1 * head, 0.0 * head], -1)
    parent[:, HEAD], angle[:, HEAD], swing[:, HEAD], spin[:, HEAD] = TORSO, 0.0, 0.0, 0.0
    rock[:, HEAD] = 0.4
    thin = random.between(0.035, 0.07)
    pace, step = 2.0 * math.pi * random.between(0.5, 1.1), random.between(0.3, 0.8)
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
    anchor[:, SATELLITE] = torch.stack([away, -random.between(0.0, 0.3), 0.0 * away], -1)
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


def _sample_surroundings(random: SeededSampler, is_open: Tensor, angle: Tensor) -> Surroundings:
    room = torch.stack(
        [random.between(3.2, 5.0), random.between(1.3, 2.0), random.between(3.2, 5.0)], -1
    )
    aside = angle + random.sign() * random.between(0.4, 2.2)
    distance, height = random.between(1.0, 2.4), 2.0 * room[:, 1] - random.between(0.1, 0.4)
    inside = torch.stack([distance * aside.sin(), -height, -distance * aside.cos()], -1)
    climb = random.between(0.25, 1.3)
    sun = 400.0 * torch.stack(
        [climb.cos() * aside.sin(), -climb.sin(), -climb.cos() * aside.cos()], -1
    )
    warmth = random.between(-0.5, 1.0)[:, None]
    tint = torch.cat([1.0 + 0.12 * warmth, torch.ones_like(warmth), 1.0 - 0.2 * warmth], -1)
    cool = torch.cat([1.0 - 0.1 * warmth, torch.ones_like(warmth), 1.0 + 0.14 * warmth], -1)
    ambient, key = random.between(0.07, 0.4)[:, None], random.between(0.35, 1.5)[:, None]
    key = torch.where(is_open[:, None] > 0, 0.55 * key, key)
    return Surroundings(
        room=room,
        open=is_open,
        lamp=torch.where(is_open[:, None] > 0, sun, inside),
        colour=tint * key,
        above=cool * ambient,
        below=tint * ambient * 0.7,
        falloff=torch.where(is_open > 0, 0.0, 0.12),
        softness=torch.exp(random.between(math.log(0.01), math.log(0.2))),
        fog=is_open * torch.exp(random.between(math.log(0.0005), math.log(0.02))),
    )


def _sample_camera(
    random: SeededSampler, is_open: Tensor, scale: Tensor, angle: Tensor, room: Tensor
) -> CameraMotion:
    """Half of the cameras only shake, as half of Stereo4D's do; the others move along, to, around
    or past the bodies.
    """
    b = len(scale)
    still = random.unit() < 0.45
    keep_out = (ARENA + 0.35) * scale
    far = torch.where(is_open > 0, keep_out * random.between(1.05, 1.8), random.between(2.5, 3.2))
    eye = torch.stack(
        [far * angle.sin(), -random.between(0.6, 1.9) * scale.sqrt(), -far * angle.cos()], -1
    )
    aim = (
        torch.stack(
            [random.between(-0.6, 0.6), -random.between(0.3, 0.9), random.between(-0.6, 0.6)], -1
        )
        * scale[:, None]
    )
    fast = torch.exp(random.between(math.log(0.5), math.log(4.5)))
    speed = torch.where(still, 0.0, torch.where(is_open > 0, fast, fast.clamp_max(1.2)))
    style = random.unit()
    turned = angle + torch.where(
        style < 0.35, random.sign() * math.pi / 2, random.between(-math.pi, math.pi)
    )
    velocity = torch.stack(
        [speed * turned.sin(), 0.1 * speed * random.between(-1.0, 1.0), -speed * turned.cos()], -1
    )
    circles = (style > 0.7) & ~still
    orbit = torch.where(circles, random.sign() * (speed / far).clamp_max(0.35), 0.0)
    velocity = torch.where(circles[:, None], 0.1 * velocity, velocity)
    walks = (speed > 0.5) & ~circles
    shake = _sample_shake(random, still, walks, far)
    frequency = torch.tensor([0.3, 0.8, 1.6, 1.9]).double()[:, None]
    side = torch.stack([room[:, 0] - 0.35, 2.0 * room[:, 1] - 0.3, room[:, 2] - 0.35], -1)
    return CameraMotion(
        hfov=torch.deg2rad(
            torch.where(random.unit() < 0.5, random.between(57.0, 63.0), random.between(38.0, 80.0))
        ),
        eye=eye,
        aim=aim,
        velocity=velocity,
        follow=random.unit() * (random.unit() < 0.4),
        orbit=orbit,
        period=random.between(14.0, 40.0),
        phase=random.between(-1.2, 1.2),
        keep_out=keep_out,
        limit=torch.where(is_open[:, None] > 0, 1e3, side),
        shake=shake,
        shake_omega=2 * math.pi * frequency * random.between(0.8, 1.2, 4, 6),
        shake_phase=random.between(-math.pi, math.pi, 4, 6).expand(b, 4, 6),
    )


def _sample_shake(random: SeededSampler, still: Tensor, walks: Tensor, far: Tensor) -> Tensor:
    """Amplitudes [b 4 6] of a hand that holds the camera, ``far`` metres from the middle."""
    strength = torch.exp(random.between(math.log(0.05), math.log(1.0)))[:, None, None]
    hand = torch.tensor([0.012, 0.012, 0.012, 0.06, 0.06, 0.06]).double()
    shares = torch.tensor([1.0, 0.5, 0.15, 0.0]).double()[:, None]
    shake = (
        hand
        * shares
        * random.between(0.3, 1.0, 4, 6)
        * torch.where(still[:, None, None], 0.3, 1.0)
        * strength
    )
    shake[..., 3:] *= far[:, None, None] / 2.5
    shake[:, 3, 1] = 0.025 * walks  # every step of a walk
    return shake
