"""The viewer from the browser's side: pictures per second while moving, queues, memory, time to the
first picture.

A client in a process of its own speaks viser's protocol over a real socket and decodes every
picture. The scene is the demo, reconstructed from 32 frames of 256² with the bundled model; the
window is square, so full pictures are 256². ``--scene`` takes another scene, ``--side`` larger
pictures, and ``--frames 0`` leaves memory out.

* moving: the client orbits and asks for the next view as soon as a picture has come. ``rate`` is
  pictures per second at the client; ``bare`` is ``Scene.render`` called for the same views at the
  same sizes in a loop, nothing else running.
* slider: 20 slider events a second for ten seconds, whatever comes back; ``behind`` is the time
  from the last event to its picture, in pictures; a queue would make it grow with the number of
  events.
* memory: resident memory of the server's process after each quarter of ``--frames`` pictures.
* first picture: from ``Viewer(scene)`` to the client's first decoded picture, connecting included.

Wall-clock times, on all threads torch takes.

    python -m benchmarks.viewer
"""

import multiprocessing
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Verdicts, parser, start
from fsm.open_scene import open_scene
from fsm.viewer import Viewer
from fsm.viewer.cameras import Camera
from fsm.viewer.render_worker import BUDGETS
from fsm.viewer.viewable import Viewable
from fsm.views import Rendering, Views

SIDE = 256
INPUTS = 32
EVENTS, EVENT_RATE = 200, 20.0
PICTURES = 20
"""In one round of moving."""
SMALLER = next(iter(BUDGETS))
"""What "While moving" stands at first."""
POLL = 0.002


@dataclass(frozen=True)
class Seen:
    """What the client saw of one run."""

    asked: tuple[float, ...]
    """Monotonic clock of every request."""
    came: tuple[float, ...]
    """Of every decoded picture."""
    heights: tuple[int, ...]


class Kept:
    """A scene that can keep the requests it gets."""

    def __init__(self, scene: Viewable) -> None:
        self.scene, self.inputs, self.hw = scene, scene.inputs, scene.hw
        self.requests: list[Views] = []
        self.keeping = True

    def render(self, views: Views) -> Rendering:
        """The scene's own picture."""
        if self.keeping:
            self.requests.append(views)
        return self.scene.render(views)


def client(url: str, orbit: list[tuple[Camera, float]], side: int, commands: Any) -> None:
    """Another process: does what ``commands`` say and answers with ``Seen``."""
    from tests.viewer.fakes import browser

    with browser(url) as one:
        pictures = one.pictures
        came: list[float] = []

        def look(step: int) -> None:
            camera, _ = orbit[step % len(orbit)]
            one.look(wxyz=camera.wxyz, position=camera.position, fov=camera.fov, hw=(side, side))

        def note(until: float = 0.0, more: int = 0) -> None:
            """Note when pictures come, until a moment, until there are ``more``, or until there
            were none for a second.
            """
            wanted = len(came) + more
            since = time.monotonic()
            while True:
                now = time.monotonic()
                if len(pictures) > len(came):
                    came.append(now)
                    since = now
                elif (
                    (until and now >= until)
                    or (more and len(came) >= wanted)
                    or (not (until or more) and now - since > 1.0)
                ):
                    return
                else:
                    time.sleep(POLL)

        look(0)
        note(more=1)
        one.use("Height (px)", str(side))
        commands.send(came[0])
        for kind, count in iter(commands.recv, None):
            note()
            first = len(came)
            asked = []
            if kind in BUDGETS:
                one.use("While moving", kind)
                note()
                first = len(came)
            for step in range(count):
                asked.append(time.monotonic())
                if kind == "slider":
                    one.use("Time (s)", round(orbit[step % len(orbit)][1], 3))
                    note(until=asked[0] + (step + 1) / EVENT_RATE)
                else:
                    look(step)
                    note(more=1)
            note()
            commands.send(
                Seen(tuple(asked), tuple(came[first:]), tuple(len(p) for p in pictures[first:]))
            )
            pictures.clear()
            came.clear()


def orbit_of(scene: Viewable) -> list[tuple[Camera, float]]:
    """A round of 60 views about the inputs, with the time of each."""
    from fsm.renderers.film.camera_paths import make_path

    path = make_path("orbit", "sweep", scene.inputs, 60, scene.hw)
    return [(Camera.of_view(path, i), float(path.time[i])) for i in range(len(path))]


def bare_seconds(scene: Viewable, requests: list[Views]) -> float:
    """Seconds that ``Scene.render`` takes for ``requests``."""
    began = time.perf_counter()
    for request in requests:
        scene.render(request)
    return time.perf_counter() - began


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def demo_scene(side: int) -> Viewable:
    """The demo, read by the bundled model."""
    from fsm.cli.reconstruct import choose_frames
    from fsm.datasets.open import open_clip
    from fsm.model import FSM

    clip, model = open_clip("demo"), FSM.from_pretrained("fsm-tiny")
    return model.reconstruct(clip.views(choose_frames(range(len(clip)), INPUTS, 0), (side, side)))


def ask(commands: Any, *what: Any) -> Any:
    """Let the client do something and wait for its answer."""
    commands.send(what)
    return commands.recv()


def moving(verdicts: Verdicts, kept: Kept, commands: Any, kind: str, rounds: int) -> None:
    """Orbit as fast as pictures come, then draw the same requests without a viewer; in turn, and
    medians of the rounds.
    """
    served, ratios, waits, sides = [], [], [], []
    for _ in range(rounds):
        kept.requests.clear()
        seen: Seen = ask(commands, kind, PICTURES)
        # The last picture at full size, when all stands still again, is neither asked for nor
        # counted.
        requests = (
            kept.requests[-PICTURES - 1 : -1] if kind == SMALLER else kept.requests[-PICTURES:]
        )
        served.append(PICTURES / (seen.came[PICTURES - 1] - seen.asked[0]))
        ratios.append(served[-1] * bare_seconds(kept.scene, requests) / PICTURES)
        waits += [
            came - asked for asked, came in zip(seen.asked, seen.came[:PICTURES], strict=True)
        ]
        sides += seen.heights[:PICTURES]
    side = statistics.median(sides)
    print(
        f"  {kind}: pictures of about {side:.0f}x{side:.0f}; from request to picture "
        f"{1e3 * statistics.median(waits):.0f} ms "
        f"(median), {1e3 * max(waits):.0f} ms (longest)"
    )
    verdicts.check(
        f"{kind}: pictures per second while moving", statistics.median(served), 3.0, at_least=True
    )
    verdicts.check(f"{kind}: share of the bare rate", statistics.median(ratios), 0.8, at_least=True)


def slider(verdicts: Verdicts, kept: Kept, commands: Any) -> None:
    """Events come faster than pictures can be drawn."""
    kept.requests.clear()
    seen: Seen = ask(commands, "slider", EVENTS)
    last = seen.asked[-1]
    after = [came - last for came in seen.came if came > last]
    print(
        f"  slider: {EVENTS} events at {EVENT_RATE:g}/s, {len(seen.came)} pictures; "
        f"{len(after)} of them after the last event, "
        f"the last {after[-1]:.2f} s after it"
    )
    verdicts.check(
        "slider: pictures after the last event (under way, newest, full size)", len(after), 3
    )
    verdicts.check("slider: requests drawn per event", len(kept.requests) / EVENTS, 1.0)


def memory(verdicts: Verdicts, commands: Any, frames: int) -> None:
    """Resident memory while pictures go by. In the first half the allocator still learns the sizes
    that come.
    """
    sizes = []
    for _ in range(4):
        ask(commands, SMALLER, frames // 4)
        sizes.append(resident_mb())
    print(
        f"  memory: {', '.join(f'{s:.0f}' for s in sizes)} MB after each quarter of "
        f"{frames} pictures"
    )
    verdicts.check("memory: growth over the second half", sizes[3] - sizes[1], 20.0, unit=" MB")


def main() -> None:
    """Print what was seen and the verdicts."""
    arguments = parser(__doc__)
    arguments.add_argument("--frames", type=int, default=2000, help="pictures of the memory test")
    arguments.add_argument("--side", type=int, default=SIDE, help="pixels of full pictures")
    arguments.add_argument("--scene", type=Path, help="a scene folder in place of the demo")
    args = arguments.parse_args()
    threads = torch.get_num_threads()
    about = "demo, fsm-tiny" if args.scene is None else args.scene.name
    start("viewer", scene=about, side=args.side, inputs=INPUTS, viser=version("viser"))
    torch.set_num_threads(threads)
    print(f"  (here {threads} threads)")
    verdicts = Verdicts()
    scene: Any = demo_scene(args.side) if args.scene is None else open_scene(args.scene)
    kept = Kept(scene)
    orbit = orbit_of(kept)
    processes = multiprocessing.get_context("spawn")
    commands, theirs = processes.Pipe()
    began = time.monotonic()
    with Viewer(kept, port=0) as viewer:
        job = (viewer.url, orbit, args.side, theirs)
        other = processes.Process(target=client, args=job, daemon=True)
        served = time.monotonic() - began
        joined = time.monotonic()
        other.start()
        first = commands.recv() - joined
        print(
            f"  server up in {served:.2f} s; first picture {first:.2f} s later, of which "
            "the client's own start is part"
        )
        verdicts.check("first picture", served + first, 5.0, unit=" s")
        for kind in (SMALLER, "Full size"):
            moving(verdicts, kept, commands, kind, args.repeats)
        slider(verdicts, kept, commands)
        # what stays between what goes would keep the allocator from returning memory
        kept.keeping = False
        if args.frames:
            memory(verdicts, commands, args.frames)
        commands.send(None)
        other.join(10)
    verdicts.close()


if __name__ == "__main__":
    main()
