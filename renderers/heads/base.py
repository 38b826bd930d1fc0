"""The seam between a model and its decoder head.

A head answers in two parts, so that nothing is done twice. ``prepare`` does what a scene needs
once: nothing, the depth of its input frames, or all of its Gaussians. ``decode`` renders any
number of targets from that. Whoever holds a head (``fsm.model``, ``fsm.memory_scene``, training)
passes what was prepared on and never looks into it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import nn

from fsm.encoder import ViewTokens
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.stereo.layers import Layers
from fsm.views import Rendering, SceneFrame, Views

Read = Callable[[Views], ViewTokens]
"""Tokens [b v t d] of views [b v] in model space that have read the finished memory."""
P = TypeVar("P")


class Head(nn.Module, ABC, Generic[P]):
    """A decoder head; ``P`` is what it prepares once per scene.

    Preparing is pure: what is found later and kept changes no result. All views are in model
    space, [b n] inputs and [b v] targets.
    """

    decoder: ClassVar[Literal["lvsm", "lrm"]]
    """``lvsm`` predicts pixels of a target, ``lrm`` predicts Gaussians once."""
    learns_alone: ClassVar[tuple[str, ...]] = ()
    """Submodules that a training stage can learn on their own."""
    finds_layers: ClassVar[bool] = False
    """Whether ``layers`` are found."""

    def __init__(self, dim: int, patch: int, config: Any) -> None:
        super().__init__()
        self.config, self.patch = config, patch

    def kept(self, inputs: Views) -> Views:
        """The part of the inputs that ``prepare`` needs and a scene therefore keeps: cameras."""
        return inputs.without_rgb()

    @abstractmethod
    def prepare(self, inputs: Views, read: Read) -> P:
        """What is worked out once per scene from its inputs, observed as far as ``kept``."""

    @abstractmethod
    def decode(self, targets: Views, prepared: P, read: Read) -> Rendering:
        """The targets as the scene shows them; depth is z-depth in model units."""

    def layers(self, prepared: P, index: list[int]) -> Layers | None:
        """Depth and motion of the inputs of these numbers; None where none are found."""
        return None

    def scene(self, inputs: Views, frame: SceneFrame, read: Read) -> GaussianScene | None:
        """A scene that needs neither model nor memory; None where rendering reads the memory.

        ``inputs`` [1 n] are in the clip's own space, ``frame`` leads to model space.
        """
        return None
