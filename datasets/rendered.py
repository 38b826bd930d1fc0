"""Clips of scenes that can be rendered from any camera at any moment."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from fsm.datasets.base import Clip
from fsm.views import Rendering, Views


class RenderedClip(Clip):
    """A clip of a scene that can be rendered from any camera at any moment: it knows the truth
    beside its own path.
    """

    @abstractmethod
    def truth(self, requests: Views) -> Rendering:
        """What any cameras at any moments see: rgb, and z-depth in metres at pixel centres,
        infinite where nothing is.
        """

    def moving(self, requests: Views) -> Bool[Tensor, "v 1 h w"] | None:
        """Which pixels of any cameras at any moments show what moves, changes, comes or goes within
        the clip; None where the clip does not know.

        Shadows and reflections of what moves do not count: the surface under them stands.
        """
        return None

    def scene_flow(
        self, requests: Views, later: Float[Tensor, "v"]
    ) -> Float[Tensor, "v 3 h w"] | None:
        """How far in metres, along the clip's axes, the point under each pixel has moved at the
        moments ``later`` (seconds); None where the clip does not know.
        """
        return None

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """All asked frames, rendered at native size."""
        cameras = self.cameras[indices]
        yield replace(cameras, rgb=self.truth(cameras).rgb)

    def views(
        self, indices: Sequence[int] | Tensor | None = None, hw: tuple[int, int] | None = None
    ) -> Views:
        """As ``Clip.views`` of ``indices`` [v], but another size is rendered, not resized: sharper,
        with the same intrinsics.
        """
        if hw is None or tuple(hw) == self.cameras.hw:
            return super().views(indices)
        return _AtOtherSize(self, hw).views(indices)

    def depth(self, indices: Sequence[int]) -> Float[Tensor, "v 1 h w"]:
        """Exact z-depth in metres of the frames ``indices`` at native size; infinite where nothing
        is.
        """
        depth = self.truth(self.cameras[list(indices)]).depth
        assert depth is not None, "the truth knows its depth"
        return depth


class _AtOtherSize(RenderedClip):
    """The same clip filmed at another size."""

    def __init__(self, clip: RenderedClip, hw: tuple[int, int]) -> None:
        cameras = clip.cameras.covering(hw)
        super().__init__(clip.id, clip.source, cameras, clip.fps, clip.index_plan, clip.camera_ids)
        self._clip = clip

    def truth(self, requests: Views) -> Rendering:
        return self._clip.truth(requests)

    def moving(self, requests: Views) -> Bool[Tensor, "v 1 h w"] | None:
        return self._clip.moving(requests)

    def scene_flow(
        self, requests: Views, later: Float[Tensor, "v"]
    ) -> Float[Tensor, "v 3 h w"] | None:
        return self._clip.scene_flow(requests, later)
