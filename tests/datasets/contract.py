"""What every clip promises, whatever file it came from."""

import torch

from fsm.datasets.base import Clip


def check_clip(clip: Clip, starts_at_zero: bool = True, resized: bool = True) -> None:
    """Assert the contract of ``fsm.datasets.base.Clip`` on a few frames of ``clip``.

    ``starts_at_zero`` is off only for splits that share a clock with another split, ``resized``
    only for clips that render another size afresh instead of resampling pixels.
    """
    n, cameras = len(clip), clip.cameras
    h, w = cameras.hw
    assert clip.id
    assert clip.source
    assert cameras.rgb is None
    assert cameras.c2w.shape == (n, 4, 4)
    assert cameras.c2w.dtype == cameras.intrinsics.dtype == cameras.time.dtype == torch.float32
    rotation = cameras.c2w[:, :3, :3].double()
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).double(), atol=3e-3)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(n).double(), atol=3e-3)
    assert len(clip.camera_ids) == n
    taken = set(zip(clip.camera_ids, cameras.time.tolist(), strict=True))
    assert len(taken) == n or clip.static
    assert cameras.time.min() == 0 or not starts_at_zero
    assert (cameras.intrinsics[:, :2] > 0).all()

    some = sorted({0, n // 3, n // 2, n - 1})
    shuffled = [*some[::-1], some[0]]
    views = clip.views(shuffled)
    assert views.rgb is not None
    assert views.rgb.shape == (len(shuffled), 3, h, w)
    assert views.rgb.dtype == torch.float32
    assert views.rgb.min() >= 0
    assert views.rgb.max() <= 1
    assert views.rgb.std() > 0.01
    for name in ("c2w", "intrinsics", "time"):
        assert torch.equal(getattr(views, name), getattr(cameras, name)[shuffled])

    again = clip.views(torch.tensor(shuffled))
    assert again.rgb is not None
    assert torch.equal(views.rgb, again.rgb)
    whole = clip.views(some)
    picked = whole[[some.index(i) for i in shuffled]]
    assert picked.rgb is not None
    assert torch.equal(picked.rgb, views.rgb)

    small = clip.views(some, hw=(h // 2, w // 3))
    expected = whole.covering((h // 2, w // 3))
    assert small.hw == (h // 2, w // 3)
    assert small.rgb is not None
    assert expected.rgb is not None
    assert torch.equal(small.intrinsics, expected.intrinsics)
    assert (small.rgb - expected.rgb).abs().mean() < (1e-6 if resized else 0.05)
    # Covering scales by the larger ratio (height here) and cuts the sides: the focal follows the
    # height alone.
    assert torch.allclose(
        small.intrinsics[:, 1], cameras.intrinsics[some, 1] * (h // 2) / h, rtol=1e-5
    )
