"""View a scene live

Open a scene in the browser while it is still being read.

* `Viewer` serves one scene to any number of browsers. It needs the `viewer` extra.
* `scenes_of_clip` yields the scene after every few frames, and `viewer.stream` shows each.
* The viewer binds to this machine alone unless it is given a host and a token.
"""

import time

import tyro

from fsm import FSM
from fsm.datasets.open import open_clip
from fsm.viewer import Viewer
from fsm.viewer.clip_stream import scenes_of_clip


def main(
    clip: str = "demo", size: int = 128, port: int = 8080, seconds: float | None = None
) -> int:
    """Serve CLIP until interrupted, or for SECONDS; return the number of frames shown."""
    source = open_clip(clip)
    frames = range(0, len(source), 4)
    model = FSM.from_pretrained("fsm-tiny")
    scenes = scenes_of_clip(model, source, frames, (size, size))

    shown = next(scenes)
    with Viewer(shown, clip=source, port=port) as viewer:
        print(f"open {viewer.url} in a browser; Ctrl-C ends")
        if seconds is None:
            viewer.stream(scenes, clip=source, total=len(frames))
            viewer.run()
        else:
            for shown in scenes:
                viewer.show(shown, clip=source)
            time.sleep(seconds)
    return len(shown.inputs)


if __name__ == "__main__":
    tyro.cli(main)
