"""Frames are told apart by clip and number; nothing that was seen passes for held out."""

import pytest
import torch

from fsm.errors import InputError
from fsm.frame_ids import (
    among,
    check_unseen,
    clip_frame_ids,
    frames_from_json,
    joined,
    no_frames,
)

TIMES = torch.arange(6) / 30.0


def test_ids_follow_from_name_and_times() -> None:
    ids = clip_frame_ids("walk", TIMES)
    assert torch.equal(ids, clip_frame_ids("walk", TIMES.clone()))
    assert ids[:, 1].tolist() == list(range(6))
    for other in (
        clip_frame_ids("run", TIMES),
        clip_frame_ids("walk", TIMES[:5]),
        clip_frame_ids("walk", 2.0 * TIMES),
    ):
        assert not among(other, ids).any()


def test_views_that_are_no_frames_are_never_shared() -> None:
    ids = clip_frame_ids("walk", TIMES)
    mixed = torch.cat([no_frames((2,)), ids[3:4]])
    assert among(mixed, torch.cat([no_frames((1,)), ids])).tolist() == [False, False, True]


def test_joined_frames_come_once() -> None:
    ids = clip_frame_ids("walk", TIMES)
    assert torch.equal(joined(ids[[4, 1]], ids[[1, 2]]), ids[[1, 2, 4]])


def test_a_seen_target_is_refused() -> None:
    ids = clip_frame_ids("walk", TIMES)
    check_unseen(ids[[0, 2]], ids[[1, 3]], "walk.json")
    check_unseen(None, ids, "walk.json")
    check_unseen(ids, None, "walk.json")
    with pytest.raises(InputError, match=r"walk\.json: the scene has seen the frames \[1, 3\]"):
        check_unseen(ids[[3, 0, 1]], ids[[1, 3]], "walk.json")


def test_json_there_and_back() -> None:
    for ids in (clip_frame_ids("walk", TIMES), no_frames((0,))):
        again = frames_from_json(ids.tolist(), "scene.json")
        assert again is not None
        assert torch.equal(again, ids)
    assert frames_from_json(None, "scene.json") is None
    for wrong in ("1", [1], [[1, 2, 3]], [[1.5, 2]], [[True, 1]], [[2**63, 0]]):
        with pytest.raises(InputError, match=r"scene\.json: frames_seen"):
            frames_from_json(wrong, "scene.json")
