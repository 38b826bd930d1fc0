"""What refinement finds out about its input frames: their exposures and their cameras."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from fsm.refine import cameras, exposure
from fsm.refine.config import RefineConfig
from fsm.refine.frame_values import FrameValues, cameras_of
from fsm.renderers.gaussians.types import Gaussians3D
from fsm.views import SceneFrame, Views


class Corrections:
    """Exposure and camera of each of ``views`` [v] (model space), where ``config`` asks for them.

    Their mean over the frames refined on, ``frames``, is the identity. A shift of 1 is ``unit``
    long: how far things are, so that shifts and turns move pictures alike.
    """

    def __init__(
        self, config: RefineConfig, views: Views, frames: Sequence[int], unit: float
    ) -> None:
        self.config, self.views, self.unit = config, views.without_rgb(), unit
        self.frames = list(frames)
        self.exposure: FrameValues | None = None
        self.cameras: FrameValues | None = None
        if config.exposure:
            shared = exposure.sharing_exposure(views)
            self.exposure = FrameValues(shared, exposure.WIDTH, views.c2w.device)
        if config.poses:
            self.cameras = FrameValues(cameras_of(views), cameras.WIDTH, views.c2w.device)

    @property
    def _parts(self) -> dict[str, FrameValues]:
        both = {"exposure": self.exposure, "cameras": self.cameras}
        return {name: part for name, part in both.items() if part is not None}

    def moved(self, now: Gaussians3D, frame: int) -> Gaussians3D:
        """Gaussians that the given camera of ``frame`` sees as the corrected one sees ``now``."""
        if self.cameras is None:
            return now
        return cameras.moved(now, self.views.c2w[frame], self.cameras.of(frame), self.unit)

    def exposed(
        self, rgb: Float[Tensor, "1 3 h w"], frame: int, target: Float[Tensor, "1 3 h w"] | None
    ) -> Float[Tensor, "1 3 h w"]:
        """A picture as ``frame`` has it, compared with its own picture ``target``."""
        if self.exposure is None:
            return rgb
        rgb = exposure.exposed(rgb, self.exposure.of(frame))
        return rgb if target is None else exposure.held_at_white(rgb, target)

    def step(self, share: float, share_of_colours: float, *, held_back: bool = False) -> None:
        """One step by the gradients there are, at these shares of the rates; the mean over the
        frames refined on stays the identity. ``held_back``: what those frames share stays, too.
        """
        rates, still = self.config.rates, self.frames if held_back else []
        if self.exposure is not None:
            self.exposure.step(rates.exposure * share_of_colours, self.exposure.camera[still])
            refined = self.exposure.camera[self.frames]
            exposure.centre_exposures(self.exposure.values, refined)
        if self.cameras is not None:
            self.cameras.step(rates.poses * share, self.cameras.camera[still])
            camera = self.cameras.camera
            centres = self.views.c2w.new_zeros(len(self.cameras.values), 3)
            centres[camera] = self.views.c2w[:, :3, 3]
            cameras.centre_cameras(self.cameras.values, camera[self.frames], centres)

    def unknown(self, frame: int) -> bool:
        """Whether there are corrections, and no frame refined on is of the camera of ``frame``."""
        parts = self._parts.values()
        return any(bool((p.camera[frame] != p.camera[self.frames]).all()) for p in parts)

    def showing(self) -> dict[str, Tensor]:
        """Values, by name."""
        return {name: part.values.detach() for name, part in self._parts.items()}

    def begin_at(self, values: dict[str, Tensor], frames: Sequence[int]) -> None:
        """Take the values of a ``showing()``, without any momentum; go on with ``frames``."""
        for name, part in self._parts.items():
            part.begin_at(values[name])
        self.frames = list(frames)

    def described(self, frame: SceneFrame, values: dict[str, Tensor]) -> dict[str, list[Any]]:
        """What ``values``, a ``showing()``, say of each frame, as plain values: gains in linear
        light, turns in degrees, shifts in the clip's unit of length.
        """
        out: dict[str, list[Any]] = {}
        if self.exposure is not None:
            gains = exposure.linear_gains(values["exposure"][self.exposure.camera])
            out["gains"] = gains.tolist()
        if self.cameras is not None:
            turns, shifts = values["cameras"][self.cameras.camera].split(3, dim=1)
            out["turned_degrees"] = turns.norm(dim=1).rad2deg().tolist()
            out["shifted"] = (shifts.norm(dim=1) * (self.unit / float(frame.scale))).tolist()
        return out

    def corrected(self, inputs: Views, frame: SceneFrame, values: dict[str, Tensor]) -> Views:
        """``inputs`` (the clip's own space) with the cameras of ``values``, a ``showing()``."""
        if self.cameras is None:
            return inputs
        own = values["cameras"][self.cameras.camera].to(inputs.c2w)
        to_world = frame.T_model_world[:3, :3].to(inputs.c2w)
        own = (own.unflatten(1, (2, 3)) @ to_world).flatten(1)
        unit = self.unit / float(frame.scale)
        return replace(inputs, c2w=cameras.corrected(inputs.c2w, own, unit))

    def state(self) -> dict[str, Any]:
        """Everything needed to continue."""
        parts = {name: part.state() for name, part in self._parts.items()}
        return {"unit": self.unit, **parts}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        self.unit = state["unit"]
        for name, part in self._parts.items():
            part.load_state(state[name])
