"""Scenes in a folder: a listing made once, each opened when somebody looks at it, its picture made
in the background.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray

from fsm.errors import InputError
from fsm.files import read_json
from fsm.open_scene import open_scene
from fsm.renderers.gaussians.rasterize import Backend
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.splat_files import SUFFIXES
from fsm.viewer.cameras import Camera
from fsm.viewer.render_worker import Turns
from fsm.viewer.stage import Job, Stage
from fsm.viewer.stream import in_a_sentence

DEPTH = 2
"""Levels of folders that are looked into: ``folder/scene`` and ``folder/group/scene``."""
MAX_ENTRIES = 200
MAX_SEEN = 20_000
"""Files and folders looked at, at most: a home folder must not be searched to its end."""
MAX_META = 1 << 20
"""Bytes of a scene.json whose kind is read for the listing."""
KEPT = 4
"""Scenes held in memory beside those being looked at."""
HEIGHT = 96
"""Of the pictures, in pixels."""
KINDS = {"memory": "Memory", "gaussians": "4D Gaussians"}


@dataclass(frozen=True)
class Entry:
    """One thing that can be looked at."""

    name: str
    """Its place in the folder, with ``/`` between."""
    path: Path
    kind: str
    """In words: Memory, 4D Gaussians, Splats; or Scene where its file does not say."""


@dataclass(frozen=True)
class Card:
    """What is known of an entry once it has been opened."""

    picture: UInt8[ndarray, "h w 3"] | None
    """From the first input, in the middle of the clip."""
    facts: str
    """What it is, how much it holds and how long it lasts; or why it cannot be opened."""
    good: bool
    """Whether it can be opened."""


def find_entries(folder: Path) -> tuple[tuple[Entry, ...], bool]:
    """Scenes and splat files in ``folder``, by name, and whether the search ended before everything
    was seen.

    Looks ``DEPTH`` levels down, not into scenes, PLY sequences and hidden folders. A folder that
    cannot be read is passed over.
    """
    found, seen = [], 0
    waiting = [(folder, 1)]
    while waiting:
        here, level = waiting.pop(0)
        for path in _listed(here):
            seen += 1
            if seen > MAX_SEEN or len(found) == MAX_ENTRIES:
                return _sorted(found), True
            name = path.relative_to(folder).as_posix()
            if path.suffix.lower() in SUFFIXES and path.is_file():
                found.append(Entry(name, path, "Splats"))
            elif (path / "scene.json").is_file():
                found.append(Entry(name, path, _kind(path / "scene.json")))
            elif level < DEPTH and path.is_dir() and not (path / "frames.json").is_file():
                waiting.append((path, level + 1))
    return _sorted(found), False


def _listed(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    yield from (folder / name for name in names if not name.startswith("."))


def _sorted(entries: list[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.name.casefold(), entry.name)))


def _kind(file: Path) -> str:
    try:
        meta = read_json(file, MAX_META)
    except InputError:
        return "Scene"  # what is wrong with it is said where its picture would be
    kind = meta.get("kind") if isinstance(meta, dict) else None
    return KINDS.get(kind, "Scene") if isinstance(kind, str) else "Scene"


class Gallery:
    """The scenes of a folder, for any number of browsers. Nothing but what the listing found can be
    opened.
    """

    def __init__(
        self, folder: Path | str, device: str = "cpu", kept: int = KEPT, backend: Backend = "auto"
    ) -> None:
        """List ``folder``; an ``InputError`` where it holds nothing to look at. ``kept``: scenes
        held in memory. ``backend``: what rasterises Gaussians.
        """
        self.folder, self._limit = Path(folder), kept
        self._device = device
        self._backend: Backend = backend
        self.entries, self.truncated = find_entries(self.folder)
        if not self.entries:
            files = ", ".join(SUFFIXES)
            raise InputError(
                f"{folder} holds neither a clip nor, {DEPTH} folders down, a scene "
                f"(scene.json) or splat file ({files}); "
                "make a scene with `fsm reconstruct`, or name another folder."
            )
        self.turn = Turns()
        """Held while drawing any of the scenes."""
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._cards: dict[int, Card] = {}
        self._watchers: list[Callable[[int], None]] = []
        self._painter: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name or str(self.folder)

    @property
    def opened(self) -> tuple[int, ...]:
        """Entries in memory, by when they were last wanted."""
        with self._lock:
            return tuple(self._kept)

    def enter(self, index: int) -> Stage:
        """The scene of an entry, opened unless it is in memory; stays there until ``leave``. Raises
        what opening raises.
        """
        stage = self._enter_kept(index)
        if stage is not None:
            return stage
        with self._opening:
            stage = self._enter_kept(index)  # somebody else may have opened it meanwhile
            if stage is None:
                scene = open_scene(self.entries[index].path, self._device, self._backend)
                stage = Stage(scene, turn=self.turn)
                with self._lock:
                    self._kept[index] = _Kept(stage, 1)
                    self._forget()
            return stage

    def leave(self, index: int) -> None:
        """One who entered looks at it no more."""
        with self._lock:
            self._kept[index].users -= 1
            self._forget()

    def card(self, index: int) -> Card | None:
        """What is known of an entry; None while it has not been opened yet."""
        return self._cards.get(index)

    def watch(self, tell: Callable[[int], None]) -> None:
        """``tell`` of every card that gets known from now on, on the thread that makes them; the
        first watcher starts it.
        """
        with self._lock:
            self._watchers.append(tell)
            if self._painter is None and not self._closed.is_set():
                self._painter = threading.Thread(
                    target=self._paint, name="fsm-viewer-gallery", daemon=True
                )
                self._painter.start()

    def unwatch(self, tell: Callable[[int], None]) -> None:
        """Tell no more; harmless when repeated."""
        with self._lock:
            self._watchers = [w for w in self._watchers if w != tell]

    def close(self, timeout: float = 5.0) -> None:
        """Make no more pictures."""
        self._closed.set()
        if self._painter is not None:
            self._painter.join(timeout)

    def _enter_kept(self, index: int) -> Stage | None:
        with self._lock:
            kept = self._kept.get(index)
            if kept is None:
                return None
            kept.users += 1
            self._kept.move_to_end(index)
            return kept.stage

    def _forget(self) -> None:
        """Drop what was wanted longest ago, beyond the limit; what is looked at stays, and does not
        count.
        """
        idle = [i for i, kept in self._kept.items() if kept.users == 0]
        for index in idle[: max(0, len(idle) - self._limit)]:
            del self._kept[index]

    def _paint(self) -> None:
        for index in range(len(self.entries)):
            if self._closed.is_set():
                return
            card = self._painted(index)
            with self._lock:
                self._cards[index] = card
                watchers = list(self._watchers)
            for tell in watchers:
                tell(index)

    def _painted(self, index: int) -> Card:
        try:
            stage = self.enter(index)
        except Exception as error:  # whatever a file may hold: the gallery outlives it
            return Card(None, in_a_sentence(error), good=False)
        try:
            facts = _facts(self.entries[index], stage)
            with self.turn:
                return Card(stage.render(_first_job(stage), HEIGHT).picture, facts, good=True)
        except Exception as error:  # likewise
            return Card(None, f"No picture: {in_a_sentence(error)}", good=True)
        finally:
            self.leave(index)


@dataclass
class _Kept:
    """A scene in memory."""

    stage: Stage
    users: int


def _first_job(stage: Stage) -> Job:
    views = stage.inputs.views
    seconds = 0.5 * (min(stage.times) + max(stage.times))
    camera = Camera.of_view(views, stage.nearest(min(stage.times)))
    return Job(camera, seconds, stage.nearest(seconds), "Colour", HEIGHT)


def _facts(entry: Entry, stage: Stage) -> str:
    """Kind, contents and duration. The cameras of a splat file are ours, so they are no fact about
    it.
    """
    count, scene = len(stage.times), stage.scene
    kind = entry.kind.lower() if entry.kind == "Splats" else entry.kind
    facts = [f"{len(scene.gaussians):,} {kind}" if isinstance(scene, GaussianScene) else entry.kind]
    if entry.kind != "Splats":
        facts.append(f"{count} input" + "s" * (count != 1))
    seconds = max(stage.times) - min(stage.times)
    facts.append(f"{seconds:.2f} s" if seconds > 0 else "no motion")
    return ", ".join(facts)
