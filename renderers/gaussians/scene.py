"""A scene of Gaussians: what the Gaussian decoder makes, refinement improves, exporters write and
splat files open as.
"""

import copy
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fsm.errors import InputError
from fsm.frame_ids import frames_from_json
from fsm.renderers.gaussians.constants import MIN_WEIGHT
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, MovingGaussians
from fsm.renderers.gaussians.rasterize import Backend, Rasterization, choose_backend, rasterize
from fsm.renderers.gaussians.rotations import covariance_matrix, upper_triangle
from fsm.renderers.gaussians.scene_files import FILE, read_scene, write_scene
from fsm.renderers.gaussians.spherical_harmonics import rotate_sh
from fsm.renderers.gaussians.types import GSPLAT, Gaussians3D, Projection
from fsm.views import Rendering, SceneFrame, Views

Layer = Literal["static", "moving", "all"]


class GaussianScene:
    """Implements ``fsm.renderers.base.Scene`` with 4D Gaussians and a rasteriser."""

    def __init__(
        self,
        gaussians: Gaussians4D,
        frame: SceneFrame,
        inputs: Views,
        *,
        background: Float[Tensor, " 3"] | None = None,
        projection: Projection = GSPLAT,
        backend: Backend = "auto",
        frames_seen: Int64[Tensor, "n 2"] | None = None,
    ) -> None:
        self.gaussians = gaussians
        """In the space and time of ``frame``'s model side."""
        self.frame = frame
        """Unbatched: between the clip's space and the Gaussians'."""
        self.inputs = inputs.without_rgb()
        """Cameras and times of the input frames [v], in the clip's own space and seconds."""
        self.background = gaussians.means.new_zeros(3) if background is None else background
        """sRGB behind everything."""
        self.projection = projection
        self.backend: Backend = backend
        """What rasterises; see ``rasterize``."""
        seen = self.inputs.frame_ids if frames_seen is None else frames_seen
        self.frames_seen: Int64[Tensor, "n 2"] | None = None if seen is None else seen.cpu()
        """Ids of the frames it was made from: those of ``inputs`` unless others were given; None
        where they are not known, as for a splat file.
        """

    @property
    def hw(self) -> tuple[int, int]:
        """Image size the scene was read at, and the natural size to render."""
        return self.inputs.hw

    @property
    def device(self) -> torch.device:
        """Where the Gaussians are."""
        return self.gaussians.means.device

    @cached_property
    def moving(self) -> MovingGaussians:
        """The Gaussians conditioned on time, made once."""
        with torch.no_grad():
            return self.gaussians.condition()

    @torch.no_grad()
    def render(self, views: Views) -> Rendering:
        """Pictures, alpha and depth of the requested views [v] or [1 v], each at its own time."""
        batched = views.c2w.ndim == 4
        views = views.unbatched() if batched else views
        self.frame.warn_if_held(views.time)
        requests = views.without_rgb().to(self.device)
        requests = self.frame.to_model(requests)
        parts = [self._one(requests[i]) for i in range(len(requests))]
        lead = (1,) if batched else ()
        rgb, alpha, depth = (
            torch.cat([getattr(p, name) for p in parts]).reshape(
                *lead, len(parts), -1, *requests.hw
            )
            for name in ("rgb", "alpha", "depth")
        )
        return Rasterization(
            rgb.clamp(0.0, 1.0),
            alpha,
            depth / self.frame.scale,
            parts[0].backend,
            sum(p.dropped for p in parts),
        )

    def clipped(self, near: float, far: float) -> "GaussianScene":
        """The same scene without Gaussians whose centre is nearer to the camera than ``near`` or
        farther than ``far``.

        z-depths in the clip's unit of length. Nothing is copied or worked out again.
        """
        scale = float(self.frame.scale)
        near, far = max(self.projection.near, near * scale), min(self.projection.far, far * scale)
        scene = copy.copy(self)
        scene.moving = self.moving
        scene.projection = dataclasses.replace(self.projection, near=near, far=far)
        return scene

    def with_backend(self, backend: Backend) -> "GaussianScene":
        """The same scene rasterised by ``backend``, which is resolved now; see ``choose_backend``.

        Nothing is copied or worked out again.
        """
        scene = copy.copy(self)
        scene.backend = choose_backend(backend, self.device)
        return scene

    def replaced(
        self,
        gaussians: Gaussians4D,
        inputs: Views,
        frames_seen: Int64[Tensor, "n 2"] | None,
        background: Float[Tensor, " 3"] | None = None,
    ) -> "GaussianScene":
        """Other Gaussians of the same frame, drawn in the same way; ``background`` stays where none
        is given.
        """
        return GaussianScene(
            gaussians,
            self.frame,
            inputs,
            background=self.background if background is None else background,
            projection=self.projection,
            backend=self.backend,
            frames_seen=frames_seen,
        )

    def _one(self, request: Views) -> Rasterization:
        return rasterize(
            self.moving.at(request.time[0]),
            request,
            background=self.background,
            backend=self.backend,
            projection=self.projection,
        )

    def layer(self, layer: Layer) -> "GaussianScene":
        """The same scene with one of its layers only.

        ``static`` are the Gaussians that are there at all times and follow no trajectory,
        ``moving`` the others.
        """
        if layer == "all":
            return self
        chosen = self.gaussians.stands if layer == "static" else ~self.gaussians.stands
        scene = copy.copy(self)
        scene.gaussians = self.gaussians[chosen]
        scene.moving = self.moving[chosen]
        return scene

    def save(self, path: Path | str, *, compact: bool = False) -> None:
        """Write scene.json and gaussians.safetensors to a folder, whole or not at all.

        ``compact`` rounds everything but cameras and deflates it: pictures change by about a tenth
        of a level of 255 in the mean. Without it everything comes back to the bit.
        """
        tensors = {
            f"frame.{f.name}": getattr(self.frame, f.name) for f in dataclasses.fields(SceneFrame)
        }
        tensors |= {
            f"inputs.{name}": getattr(self.inputs, name) for name in ("c2w", "intrinsics", "time")
        }
        tensors["background"] = self.background
        meta = {
            "kind": "gaussians",
            "gaussians": len(self.gaussians),
            "hw": list(self.hw),
            "frames_seen": None if self.frames_seen is None else self.frames_seen.tolist(),
            "projection": dataclasses.asdict(self.projection),
        }
        write_scene(path, self.gaussians, tensors, meta, compact=compact)

    @staticmethod
    def load(path: Path | str, *, device: torch.device | str = "cpu") -> "GaussianScene":
        """Reopen a saved scene; it renders what it rendered before, or nearly if it is compact."""
        from fsm.config import from_dict

        folder = Path(path)
        where = folder / "scene.json"
        gaussians, tensors, meta = read_scene(folder)
        try:
            frame = SceneFrame(
                *(tensors[f"frame.{f.name}"].float() for f in dataclasses.fields(SceneFrame))
            )
            hw = (int(meta["hw"][0]), int(meta["hw"][1]))
            c2w, intrinsics, time = (
                tensors[f"inputs.{name}"].float() for name in ("c2w", "intrinsics", "time")
            )
            inputs = Views(c2w, intrinsics, time, hw)
            background = tensors["background"].float()
        except KeyError as error:
            raise InputError(
                f"{folder / FILE} lacks the tensor {error}; make the scene again."
            ) from error
        projection = from_dict(Projection, meta["projection"], f"{where}: projection")
        return GaussianScene(
            gaussians.to(device),
            frame.to(device),
            inputs.to(device),
            background=background.to(device),
            projection=projection,
            frames_seen=frames_from_json(meta.get("frames_seen"), str(where)),
        )

    @torch.no_grad()
    def in_clip_space(
        self, rotation: Float[Tensor, "3 3"] | None = None, max_sh_degree: int = 3
    ) -> MovingGaussians:
        """The Gaussians in the clip's space and unit of length; times are still the model's.

        ``rotation`` turns the clip's space afterwards. Harmonics above ``max_sh_degree`` are left
        out. Where nothing is turned or scaled, values stay the same to the bit. No gradients.
        """
        moving, scale = self.moving, self.frame.scale
        T_world_model = torch.linalg.inv(self.frame.T_model_world.double())
        extra = torch.eye(3) if rotation is None else rotation
        turn = extra.to(T_world_model) @ T_world_model[:3, :3]
        shift = extra.to(T_world_model) @ T_world_model[:3, 3]
        means, velocities, follow = moving.means.double(), moving.velocities, moving.follow
        covariances, sh = moving.covariances, moving.sh[:, : (max_sh_degree + 1) ** 2]
        if not torch.equal(turn, torch.eye(3).to(turn)):
            means, velocities = means @ turn.T, (velocities.double() @ turn.T).float()
            turned = turn.float() @ covariance_matrix(covariances) @ turn.float().T
            covariances, sh = upper_triangle(turned), rotate_sh(sh, turn)
        if follow is not None:
            carried = follow.trajectories.transformed(turn, shift, 1.0 / scale.double())
            follow = dataclasses.replace(follow, trajectories=carried)
        return MovingGaussians(
            (means / scale.double() + shift).float(),
            velocities / scale,
            moving.times,
            moving.time_variances,
            covariances / scale.square(),
            moving.opacities,
            sh,
            follow=follow,
        )

    def world_at(self, seconds: float, min_weight: float = MIN_WEIGHT) -> Gaussians3D:
        """The Gaussians there at ``seconds``, in the clip's own space."""
        return self.in_clip_space().at(self.frame.at(seconds), min_weight)
