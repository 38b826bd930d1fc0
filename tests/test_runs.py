"""A folder belongs to one set of settings and one writer at a time, and gives its state back."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fsm.errors import InputError
from fsm.runs import OtherSettings, Run, check_settings, locked, tracked


def test_settings_are_written_once_and_compared_ever_after(tmp_path: Path) -> None:
    settings = {"steps": 3, "rates": {"lr": 0.5, "betas": [0.9, 0.99]}, "where": None}
    assert Run(tmp_path, settings).claim()
    before = (tmp_path / "settings.json").read_bytes()
    assert not Run(tmp_path, settings).claim()
    assert (tmp_path / "settings.json").read_bytes() == before
    other = {**settings, "steps": 4, "rates": {"lr": 0.25}, "new": 1}
    with pytest.raises(
        OtherSettings,
        match=r"settings\.json was written with other settings \(differs in steps, rates, new\); "
        "choose another folder, or remove this one",
    ):
        Run(tmp_path, other).claim()
    assert (tmp_path / "settings.json").read_bytes() == before


def test_settings_that_are_free_may_change(tmp_path: Path) -> None:
    Run(tmp_path, {"steps": 3, "device": "cpu"}, free=("device",)).claim()
    assert not Run(tmp_path, {"steps": 3, "device": "cuda"}, free=("device",)).claim()
    assert '"cuda"' in (tmp_path / "settings.json").read_text()
    with pytest.raises(OtherSettings, match="differs in steps"):
        Run(tmp_path, {"steps": 4, "device": "cuda"}, free=("device",)).claim()


def test_stored_settings_can_be_brought_up_to_date(tmp_path: Path) -> None:
    Run(tmp_path, {"steps": 3}).claim()
    newer = Run(tmp_path, {"steps": 3, "option": "default"})
    with pytest.raises(OtherSettings, match="differs in option"):
        newer.claim()
    assert not newer.claim(lambda stored, where: {"option": "default", **stored})


def test_settings_count_once_there_is_a_state(tmp_path: Path) -> None:
    first = Run(tmp_path, {"steps": 3}, state="state.pt")
    other = Run(tmp_path, {"steps": 4}, state="state.pt")
    assert first.claim()
    assert other.claim()
    other.save({"step": 1})
    with pytest.raises(OtherSettings, match="differs in steps"):
        first.claim()


def test_anything_but_an_object_is_other_settings(tmp_path: Path) -> None:
    for stored in ([], 3, None, "steps"):
        with pytest.raises(OtherSettings, match="differs in steps"):
            check_settings(tmp_path / "x.json", {"steps": 3}, stored)


def test_a_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    run, found = Run(tmp_path, {}, state="state.pt"), []
    assert not run.resume(found.append)
    state = {"step": 7, "weights": torch.randn(5)}
    run.save(state)
    assert run.resume(found.append)
    assert found[0]["step"] == 7
    assert torch.equal(found[0]["weights"], state["weights"])


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, state="state.pt")
    run.save({"step": 7})
    with pytest.raises(
        InputError, match=r"state\.pt cannot be resumed from \('weights'\); move it"
    ):
        run.resume(lambda state: state["weights"])

    def complain(state) -> None:
        raise InputError("its own sentence.")

    with pytest.raises(InputError, match=r"^its own sentence\.$"):
        run.resume(complain)
    (tmp_path / "state.pt").write_bytes(b"half")
    with pytest.raises(InputError, match="was refused or cannot be read"):
        run.resume(lambda state: None)


HOLD = """
import sys, time
from pathlib import Path
from fsm.runs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_lets_go_of_its_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match="is being written by another process"),
            locked(tmp_path),
        ):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        with locked(tmp_path):
            pass


WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None
import importlib, pkgutil, warnings
import fsm
from pathlib import Path
for module in pkgutil.walk_packages(fsm.__path__, "fsm."):
    if "__main__" not in module.name:
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name in ("matplotlib", "viser", "tensorboard"), error
from fsm.runs import locked
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # filelock says which kind of lock it takes
    with locked(Path(sys.argv[1])):
        print("held")
"""


def test_nothing_needs_fcntl(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "held\n", done.stderr


def test_a_bar_is_drawn_on_a_terminal_only(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(tracked([1, 2, 3], "scoring", 3)) == [1, 2, 3]
    assert capfd.readouterr().err == ""
    code = (
        "from fsm.runs import progress\n"
        "for shown in (True, False):\n"
        "    with progress('refining' if shown else 'hidden', 3, 1, shown) as advance:\n"
        "        advance('31.25 dB'); advance('31.50 dB')\n"
    )
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=follower, check=True, timeout=60)
    os.close(follower)
    drawn = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "refining" in drawn
    assert "3/3" in drawn
    assert "31.50 dB" in drawn
    assert "hidden" not in drawn


def test_the_time_that_is_left_is_told_once_at_the_pace_after_the_first_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, told = [0.0], list[float]()
    monkeypatch.setattr("fsm.runs.time.monotonic", lambda: clock[0])

    def parts(slow: int, count: int) -> Iterator[int]:
        for i in range(count):
            clock[0] += 10.0 if i < slow else 0.5
            yield i

    for _ in tracked(parts(slow=3, count=40), "rendering", 40, told.append):
        pass
    assert told == [0.5 * (40 - 12)]
    for _ in tracked(parts(slow=0, count=12), "rendering", 12, told.append):
        pass
    assert len(told) == 1  # nothing is left
