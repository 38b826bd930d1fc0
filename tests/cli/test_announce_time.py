"""What commands say about how long they take."""

import pytest

from fsm.cli.common import announce_time, reading_seconds
from tests.small import small_model, small_views


@pytest.mark.parametrize(
    ("seconds", "size", "said"),
    [
        (40.4, None, "takes about 40 s at 910x512; --size 256 takes about a quarter"),
        (40.4, "512", "takes about 40 s at 910x512"),
        (600.0, None, "takes about 10 minutes at 910x512; --size 256 takes about a quarter"),
        (1.0, None, ""),
    ],
)
def test_a_long_wait_is_announced_with_a_way_out(
    seconds: float, size: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_time(seconds, (512, 910), size)
    assert capsys.readouterr().out.strip() == said


def test_the_time_of_many_frames_is_found_on_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = small_model(), list[int]()
    reconstruct, clock = type(model).reconstruct, [0.0]

    def counted(self, inputs, frame=None):
        read.append(len(inputs))
        clock[0] += 0.5 * len(inputs)
        return reconstruct(self, inputs, frame)

    monkeypatch.setattr(type(model), "reconstruct", counted)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert reading_seconds(model, small_views(16)) == pytest.approx(8.0)
    assert read == [1, 3]
    assert reading_seconds(model, small_views(5)) == 0.0
    assert read == [1, 3]
