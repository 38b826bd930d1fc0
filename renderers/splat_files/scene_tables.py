"""A scene of 4D Gaussians as splat tables of its moments, in the clip's own space."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.renderers.gaussians.constants import MIN_WEIGHT
from fsm.renderers.gaussians.factorise import rotations_and_scales
from fsm.renderers.gaussians.gaussians4d import MovingGaussians
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.motion.quaternions import multiply
from fsm.renderers.splat_files.table import SplatTable, turned
from fsm.views import SceneFrame


@dataclass(frozen=True)
class SceneTables:
    """Everything that does not depend on time, made once: so frames are cheap, and rotations and
    scales do not flicker.
    """

    moving: MovingGaussians
    """In the clip's space; times and velocities still in model time."""
    quats: Float[Tensor, "n 4"]
    """Rotations, wxyz, in the clip's space."""
    scales: Float[Tensor, "n 3"]
    """Standard deviations in the clip's unit of length."""
    static: Bool[Tensor, " n"]
    """Which are plain 3D Gaussians, there at all times and still."""
    always: Bool[Tensor, " n"]
    """Which are there at all times: those, and some that follow trajectories."""
    frame: SceneFrame
    """Of the scene: where model time lies in seconds."""
    antialiased: bool
    """As in ``SplatTable``."""

    @staticmethod
    def of(scene: GaussianScene, rotation: Float[Tensor, "3 3"] | None = None) -> "SceneTables":
        """The Gaussians of ``scene``; ``rotation`` turns the clip's space afterwards (see
        ``up_rotation``).

        Plain 3D Gaussians keep the rotations and scales they have; where no space is turned or
        scaled, to the bit.
        """
        g, frame = scene.gaussians.detach(), scene.frame
        static = g.is_static
        quats, scales = g.left.clone(), g.scales.clone()
        quats[~static], scales[~static] = rotations_and_scales(scene.moving.covariances[~static])
        moving = scene.in_clip_space(rotation)
        # a plain 3D Gaussian stands still to the bit
        moving = dataclasses.replace(moving, velocities=moving.velocities * ~static[:, None])
        turn = torch.linalg.inv(frame.T_model_world.double())[:3, :3]
        turn = turn if rotation is None else rotation.to(turn) @ turn
        return SceneTables(
            moving,
            quats if torch.equal(turn, torch.eye(3).to(turn)) else turned(quats, turn),
            scales / frame.scale,
            static,
            static | (g.follows & g.time_scales.isinf()),
            frame,
            scene.projection.antialiased,
        )

    def at(self, seconds: float, min_weight: float = MIN_WEIGHT) -> SplatTable:
        """The Gaussians there at ``seconds``: temporal weight at least ``min_weight``."""
        time = self.frame.at(seconds)
        index = (self.moving.weights(time) >= min_weight).nonzero()[:, 0]
        moving, quats = self.moving[index], self.quats[index]
        there = moving.at(time, 0.0)
        if (follow := moving.follow) is not None:
            followers = moving[follow.index]
            _, turns = follow.carried(followers.means, followers.times, time)
            quats[follow.index] = multiply(turns, quats[follow.index])
        opacities = there.opacities.clamp(0.0, 1.0)
        return SplatTable.of(
            there.means,
            quats,
            self.scales[index],
            opacities,
            there.sh,
            self.antialiased,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The scene and its motion as plain fields; docs/gaussians.md says what they mean."""
        per_second = 2.0 / self.frame.time_span
        spread = self.moving.time_variances.sqrt() / per_second
        velocities, follow = self.moving.velocities, self.moving.follow
        if follow is not None:
            followers = self.moving[follow.index]
            along = follow.velocities(followers.means, followers.times)
            velocities = velocities.index_add(0, follow.index, along)
        return {
            "means": self.moving.means,
            "velocities": velocities * per_second,
            "times": self.frame.seconds(self.moving.times),
            "time_scales": torch.where(self.always, torch.full_like(spread, torch.inf), spread),
            "quats": self.quats,
            "scales": self.scales,
            "opacities": self.moving.opacities,
            "sh": self.moving.sh,
        }
