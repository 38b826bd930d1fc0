"""The part of the panel that compares: a wipe line, and what stands right of it."""

import dataclasses
from typing import Any

from fsm.viewer.parts.base import Host, Part, user_events_only
from fsm.viewer.stage import Job
from fsm.viewer.wipe import Wipe

NOTHING = "Nothing"
FRAME = "Input frame"
MIDDLE = 50
"""Per cent of the width."""


class ComparePart(Part):
    """Puts the input frame of the moment, or another scene, beside the scene."""

    def __init__(self, host: Host) -> None:
        """Controls in the tab ``Picture``; hidden where there is nothing to compare with."""
        self._host = host
        gui: Any = host.client.gui
        offers = _offers(host)
        with host.tab("Picture"):
            self.against = gui.add_dropdown(
                "Compare with",
                offers,
                visible=len(offers) > 1,
                hint=(
                    "Stands right of a line. Another scene is taken to be in the same space, "
                    "on the same clock."
                ),
            )
            self.wipe = gui.add_slider(
                "Wipe (%)", 0, 100, 1, MIDDLE, visible=False, hint="How much is left of the line."
            )
            self.sides = gui.add_markdown("", visible=False)
        self.against.on_update(user_events_only(lambda _: host.reshow()))
        self.wipe.on_update(user_events_only(lambda _: host.refresh()))

    def wants(self, job: Job) -> Job:
        """Compared with what is chosen; input frames only in colour, as they have nothing else."""
        against = self.against.value
        in_vain = against == FRAME and job.mode != "Colour"
        self.wipe.visible = against != NOTHING and not in_vain
        self.sides.visible = against != NOTHING
        if against == NOTHING:
            return job
        if in_vain:
            self.sides.content = "Input frames are compared in colour: under Show, choose Colour."
            return job
        self.sides.content = f"Left: this scene, right: {self._right(job)}"
        name = None if against == FRAME else against
        return dataclasses.replace(job, wipe=Wipe(name, self.wipe.value / 100))

    def reset(self) -> None:
        """Nothing is compared, the line in the middle."""
        self.against.value, self.wipe.value = NOTHING, MIDDLE

    def restaged(self) -> None:
        """Offer what there is now."""
        offers = _offers(self._host)
        self.against.options, self.against.visible = offers, len(offers) > 1

    def _right(self, job: Job) -> str:
        stage = self._host.stage
        if self.against.value != FRAME:
            return f"`{self.against.value}`"
        return f"input {job.frame + 1} of {len(stage.times)}, at {stage.times[job.frame]:.3f} s"


def _offers(host: Host) -> tuple[str, ...]:
    frames = (FRAME,) if host.stage.knows_frames else ()
    return (NOTHING, *frames, *host.stage.compare)
