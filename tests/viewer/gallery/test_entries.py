"""A folder of scenes: what is listed, what is opened when, and each browser's own way through
it.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fsm.viewer.gallery.entries as module
from fsm.errors import InputError
from fsm.files import write_json
from fsm.viewer import Gallery, GalleryViewer
from fsm.viewer.gallery.entries import HEIGHT, Card, find_entries
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras, until

LEVEL = 3 / 255  # JPEG
IN_MEMORY = "Memory, 5 inputs, 0.40 s"


def make(folder: Path, *names: str) -> Path:
    """Places that look like scenes (without a suffix) and splat files, and hold nothing."""
    for name in names:
        if Path(name).suffix:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
        else:
            (folder / name).mkdir(parents=True)
            write_json(folder / name / "scene.json", {"kind": "memory"})
    return folder


class Opened:
    """Stands in for ``open_scene``: counts, and fails where it is told to."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.broken: set[str] = set()
        self.wait: threading.Event | None = None

    def __call__(self, path: Path, device: str, backend: str) -> FakeScene:
        self.paths.append(path)
        if self.wait is not None:
            self.wait.wait(20)
        if path.name in self.broken:
            raise InputError(f"{path.name} is torn; make it again.")
        inputs = cameras(5)
        inputs.c2w[:, 1, 3] = 0.1 * (ord(path.name[0]) - ord("a"))  # blue says which scene it is
        return FakeScene(inputs)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    opened = Opened()
    monkeypatch.setattr(module, "open_scene", opened)
    return opened


# --- the listing ---


def test_scenes_and_splat_files_are_listed_by_name_two_levels_down(tmp_path: Path) -> None:
    make(
        tmp_path,
        "b",
        "A",
        "c.ply",
        "group/d",
        "group/e.SPZ",
        "group/deeper/f",
        ".hidden/g",
        "b/inner",
        "h.splat",
    )
    (tmp_path / "notes.txt").write_text("nothing to see")
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "A" / "scene.json", {"kind": "gaussians"})
    (tmp_path / "group" / "d" / "scene.json").write_text("{")
    entries, truncated = find_entries(tmp_path)
    assert not truncated
    assert [(e.name, e.kind) for e in entries] == [
        ("A", "4D Gaussians"),
        ("b", "Memory"),
        ("c.ply", "Splats"),
        ("group/d", "Scene"),
        ("group/e.SPZ", "Splats"),
        ("h.splat", "Splats"),
    ]
    assert all(e.path == tmp_path / e.name for e in entries)


def test_a_sequence_of_splat_files_is_no_row_of_scenes(tmp_path: Path) -> None:
    make(tmp_path, "a", "film/frame_00000.ply", "film/frame_00001.ply")
    write_json(tmp_path / "film" / "frames.json", {})
    assert [e.name for e in find_entries(tmp_path)[0]] == ["a"]


def test_the_listing_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *(f"s{i}" for i in range(6)))
    assert not Gallery(tmp_path).truncated
    monkeypatch.setattr(module, "MAX_ENTRIES", 4)
    gallery = Gallery(tmp_path)
    assert ([e.name for e in gallery.entries], gallery.truncated) == (
        ["s0", "s1", "s2", "s3"],
        True,
    )
    monkeypatch.setattr(module, "MAX_SEEN", 3)
    assert len(Gallery(tmp_path).entries) == 3


def test_loops_of_links_end(tmp_path: Path) -> None:
    make(tmp_path, "a")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [e.name for e in find_entries(tmp_path)[0]] == ["a", "loop/a"]


def test_nothing_to_look_at_is_one_sentence(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c")
    with pytest.raises(
        InputError, match=r"holds neither a clip nor, 2 folders down, a scene .*; make a scene with"
    ):
        Gallery(tmp_path / "a" / "b" / "c")
    assert [e.name for e in Gallery(tmp_path / "a").entries] == ["b/c"]


# --- what is in memory ---


def test_scenes_are_opened_when_wanted_and_few_are_kept(tmp_path: Path, opened: Opened) -> None:
    gallery = Gallery(make(tmp_path, "a", "b", "c", "d"), kept=2)
    assert opened.paths == []
    first = gallery.enter(0)
    assert gallery.enter(0) is first  # two look at it
    for index in (1, 2, 3):
        gallery.enter(index)
        gallery.leave(index)
    assert gallery.opened == (0, 2, 3)  # what is looked at stays, and of the others the newest two
    gallery.leave(0)
    assert gallery.opened == (0, 2, 3)  # one still looks
    gallery.leave(0)
    assert gallery.opened == (2, 3)
    gallery.enter(2)
    gallery.leave(2)
    gallery.enter(1)
    gallery.leave(1)
    assert gallery.opened == (2, 1)
    assert [p.name for p in opened.paths] == ["a", "b", "c", "d", "b"]


def test_two_who_want_the_same_scene_open_it_once(tmp_path: Path, opened: Opened) -> None:
    gallery = Gallery(make(tmp_path, "a", "b"))
    opened.wait = threading.Event()
    stages: list = []
    threads = [threading.Thread(target=lambda: stages.append(gallery.enter(0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: opened.paths)
    opened.wait.set()
    for thread in threads:
        thread.join(10)
    assert len(opened.paths) == 1
    assert all(stage is stages[0] for stage in stages)
    for _ in threads:
        gallery.leave(0)


def test_a_scene_that_cannot_be_opened_is_not_kept(tmp_path: Path, opened: Opened) -> None:
    gallery = Gallery(make(tmp_path, "a"))
    opened.broken = {"a"}
    with pytest.raises(InputError, match="a is torn"):
        gallery.enter(0)
    assert gallery.opened == ()
    opened.broken.clear()
    gallery.enter(0)


def test_pictures_are_of_the_first_camera_in_the_middle_of_the_clip(
    tmp_path: Path, opened: Opened
) -> None:
    gallery = Gallery(make(tmp_path, "a", "c", "torn", "d.ply"), kept=1)
    opened.broken = {"torn"}
    told: list[int] = []
    gallery.watch(told.append)
    until(lambda: told == [0, 1, 2, 3])
    cards = {entry.name: gallery.card(i) for i, entry in enumerate(gallery.entries)}
    for name, blue, facts in (
        ("a", 0.0, IN_MEMORY),
        ("c", 0.2, IN_MEMORY),
        ("d.ply", 0.3, "Splats, 0.40 s"),
    ):
        card = cards[name]
        assert card is not None
        assert card.picture is not None
        assert card.picture.shape == (HEIGHT, HEIGHT * 3 // 2, 3)
        assert card.picture.mean((0, 1)) / 255 == pytest.approx([0.2, 0.0, blue], abs=LEVEL)
        assert (card.facts, card.good) == (facts, True)
    assert cards["torn"] == Card(None, "torn is torn; make it again.", good=False)
    assert len(gallery.opened) <= 1
    gallery.close()


# --- in the browser ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "scenes", "a", "f", "torn")


@pytest.fixture
def viewer(folder: Path, opened: Opened) -> Iterator[GalleryViewer]:
    opened.broken = {"torn"}
    with GalleryViewer(Gallery(folder), port=0) as running:
        yield running


@pytest.fixture
def one(viewer: GalleryViewer) -> Iterator[FakeBrowser]:
    with browser(viewer.url) as connected:
        connected.look()
        until(lambda: connected.find("Open torn"))
        yield connected


def shows(one: FakeBrowser, *colour: float) -> None:
    until(lambda: one.pictures and one.colour == pytest.approx(colour, abs=LEVEL))


def test_from_the_page_into_a_scene_and_back(one: FakeBrowser, viewer: GalleryViewer) -> None:
    assert one.says("3 scenes")
    until(lambda: one.says(IN_MEMORY))
    until(lambda: one.says("**Not opened:** torn is torn; make it again."))
    assert not one.find("Open torn")["visible"]  # pyright: ignore
    assert not one.pictures
    one.use("Open f", True)
    shows(one, 0, 0, 0.5)  # from where the first input was
    assert "SetCameraPositionMessage" in {m["type"] for m in one.moves}
    until(lambda: "/inputs/camera_4" in one.nodes)
    assert one.find("Open a") is None
    one.use("Time (s)", 0.3)
    shows(one, 0.3, 0, 0.5)
    one.use("All scenes", True)
    until(lambda: one.find("Open a") and one.find("Time (s)") is None)
    until(lambda: not [name for name in one.nodes if name.startswith("/inputs")])
    until(lambda: viewer.gallery.card(0) and one.says(IN_MEMORY))
    one.use("Open a", True)
    shows(one, 0, 0, 0)
    (visit,) = viewer._sessions.values()
    # the session before hears of the camera no more
    assert not visit.session.client.camera._state.camera_cb[:-1]


def test_browsers_choose_on_their_own(one: FakeBrowser, viewer: GalleryViewer) -> None:
    one.use("Open f", True)
    shows(one, 0, 0, 0.5)
    with browser(viewer.url) as two:
        two.look()
        until(lambda: two.find("Open a"))
        two.use("Open a", True)
        shows(two, 0, 0, 0)
        drawn = len(one.pictures)
        two.use("All scenes", True)
        until(lambda: two.find("Open f"))
        one.use("Time (s)", 0.2)
        shows(one, 0.2, 0, 0.5)
        assert len(one.pictures) > drawn
    until(lambda: viewer.clients == 1)


def forget(gallery: Gallery) -> None:
    """Nothing that nobody looks at stays in memory."""
    until(lambda: gallery.card(len(gallery.entries) - 1))
    gallery._limit = 0
    gallery.enter(0)
    gallery.leave(0)
    assert gallery.opened == ()


def test_the_page_says_why_a_scene_cannot_be_opened(
    one: FakeBrowser, viewer: GalleryViewer, opened: Opened
) -> None:
    forget(viewer.gallery)
    opened.broken.add("a")
    one.use("Open a", True)
    until(lambda: one.says("**Not opened:** a is torn; make it again."))
    one.use("Open f", True)
    shows(one, 0, 0, 0.5)


def test_a_late_report_of_the_camera_before_does_not_stand(
    one: FakeBrowser, viewer: GalleryViewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsm.viewer.gallery.server.SETTLE", 0.0)
    one.use("Open f", True)
    shows(one, 0, 0, 0.5)
    (visit,) = viewer._sessions.values()
    start = visit.session.stage.inputs.cameras[0]
    # from before, as it seems
    until(lambda: one.look(x=0.9) or one.colour == pytest.approx([0, 0.9, 0], abs=LEVEL))
    one.moves.clear()

    def settled() -> bool:
        visit._settle(visit.session, start)  # again for every report that was still on its way
        return one.colour == pytest.approx([0, 0, 0.5], abs=LEVEL)

    def quiet() -> bool:
        before = len(one.moves)
        time.sleep(0.2)
        return len(one.moves) == before

    until(settled)
    assert [m["position"] for m in one.moves if m["type"] == "SetCameraPositionMessage"]
    # What the last settling sent may still be on its way.
    until(quiet)
    one.moves.clear()
    visit._settle(visit.session, start)  # where it should be, it is left alone
    one.use("Time (s)", 0.3)
    shows(one, 0.3, 0, 0.5)
    assert not one.moves


def test_leaving_while_a_scene_is_opened_lets_go_of_it(
    viewer: GalleryViewer, opened: Opened
) -> None:
    with browser(viewer.url) as one:
        one.look()
        until(lambda: one.find("Open f"))
        forget(viewer.gallery)
        opened.wait = threading.Event()
        count = len(opened.paths)
        one.use("Open f", True)
        until(lambda: len(opened.paths) > count)
    opened.wait.set()
    until(lambda: viewer.clients == 0)
    until(lambda: viewer.gallery.opened == ())
    until(
        lambda: (
            not [
                t
                for t in threading.enumerate()
                if t.name in ("fsm-viewer-visit", "fsm-viewer-render")
            ]
        )
    )


def test_many_entries_have_a_filter(tmp_path: Path, opened: Opened) -> None:
    folder = make(tmp_path / "many", *(f"s{i:02}" for i in range(13)))
    with GalleryViewer(Gallery(folder), port=0) as viewer, browser(viewer.url) as one:
        one.look()
        until(lambda: one.find("Open s12"))
        rows = lambda: [one.find(f"s{i:02}")["visible"] for i in range(13)]  # noqa: E731  # pyright: ignore
        one.use("Filter", "S1")
        until(lambda: rows() == [False] * 10 + [True] * 3)
        one.use("Filter", "x")
        until(lambda: one.says("No name holds that."))
        one.use("Filter", "")
        until(lambda: all(rows()))
        assert not one.says("No name holds that.")


def test_few_entries_have_none(one: FakeBrowser) -> None:
    assert not one.find("Filter")["visible"]  # pyright: ignore
