"""The part of the panel about the layers of Gaussians: what stands, and what does not."""

import dataclasses
from typing import Any

from fsm.viewer.parts.base import Host, Part, user_events_only
from fsm.viewer.stage import Job


class LayerPart(Part):
    """Shows one layer of a scene of Gaussians that has both."""

    def __init__(self, host: Host) -> None:
        """A control in the tab ``Picture``; hidden where there is one layer only."""
        self._host = host
        gui: Any = host.client.gui
        layers = host.stage.layers
        with host.tab("Picture"):
            self.layer = gui.add_dropdown(
                "Layer",
                layers,
                visible=len(layers) > 1,
                hint="static: Gaussians that are there at all times and stay; moving: the others.",
            )
        self.layer.on_update(user_events_only(lambda _: host.refresh()))

    def wants(self, job: Job) -> Job:
        """Of the layer that is chosen."""
        return dataclasses.replace(job, layer=self.layer.value)

    def reset(self) -> None:
        """All of them."""
        self.layer.value = "all"

    def restaged(self) -> None:
        """Offer what there is now."""
        layers = self._host.stage.layers
        self.layer.options, self.layer.visible = layers, len(layers) > 1
