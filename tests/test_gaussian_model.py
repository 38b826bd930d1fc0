"""A model with the Gaussian decoder: reconstructing, streaming, checkpoints, and starting from
another model's trunk.
"""

from pathlib import Path

import pytest
import torch

import fsm.renderers.heads.gaussian_head
from fsm.cli import main
from fsm.cli.reconstruct import Reconstruct
from fsm.errors import InputError
from fsm.model import FSM
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.train.state import start_from
from fsm.views import SceneFrame
from tests.small import small_config, small_model, small_views


def same_gaussians(a: GaussianScene, b: GaussianScene, *, rtol: float, atol: float) -> None:
    for one, other in zip(a.gaussians.tensors(), b.gaussians.tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("variant", ["pixel", "fsm", "4d-lrm"])
def test_a_gaussian_per_pixel_of_every_input_in_the_clips_space(variant: str) -> None:
    model = small_model(gaussian=variant)
    inputs = small_views(5)
    scene = model.reconstruct(inputs)
    assert isinstance(scene, GaussianScene)
    assert model.decoder == "lrm"
    assert len(scene.gaussians) == 5 * 16 * 24
    torch.testing.assert_close(scene.inputs.c2w, inputs.c2w)
    rendering = scene.render(inputs[[1, 3]].without_rgb())
    assert rendering.rgb.shape == (2, 3, 16, 24)
    assert rendering.alpha is not None
    assert bool(torch.isfinite(rendering.rgb).all())


def test_decoding_in_groups_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = small_model(gaussian="pixel"), small_views(5)
    whole = model.reconstruct(inputs)
    monkeypatch.setattr(fsm.renderers.heads.gaussian_head, "GAUSSIAN_PIXELS", 2 * 384)
    parts = model.reconstruct(inputs)
    assert isinstance(whole, GaussianScene)
    assert isinstance(parts, GaussianScene)
    same_gaussians(whole, parts, rtol=1e-4, atol=1e-5)


def test_a_stream_ends_where_one_push_does() -> None:
    model, inputs = small_model(gaussian="pixel", schedule="causal"), small_views(5)
    whole = model.reconstruct(inputs)
    assert isinstance(whole, GaussianScene)
    frame = SceneFrame.fit(inputs.batched())
    scenes = list(model.stream([inputs[:2], inputs[2:4], inputs[4:]], frame))
    assert [len(s.gaussians) for s in scenes if isinstance(s, GaussianScene)] == [
        2 * 384,
        4 * 384,
        5 * 384,
    ]
    assert isinstance(scenes[-1], GaussianScene)
    same_gaussians(whole, scenes[-1], rtol=1e-4, atol=1e-5)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model, inputs = small_model(gaussian="pixel"), small_views(3)
    model.save_pretrained(tmp_path / "model")
    again = FSM.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    a, b = model.reconstruct(inputs), again.reconstruct(inputs)
    assert isinstance(a, GaussianScene)
    assert isinstance(b, GaussianScene)
    same_gaussians(a, b, rtol=0, atol=0)


def test_starting_from_another_decoder_takes_the_trunk(capsys: pytest.CaptureFixture[str]) -> None:
    source = small_model(seed=1, reference=True)
    model = FSM(small_config(gaussian="pixel"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    start_from(model, source.state_dict(), "other")
    after, other = model.state_dict(), source.state_dict()
    assert all(torch.equal(after[k], other[k]) for k in after if k.startswith("encoder."))
    assert all(
        torch.equal(after[k], before[k])
        for k in after
        if k.startswith(("head.detail", "head.pixels"))
    )
    assert "of the decoder are new" in capsys.readouterr().err


def test_starting_from_another_trunk_is_refused() -> None:
    with pytest.raises(InputError, match="the encoder of other"):
        start_from(FSM(small_config(gaussian="pixel")), small_model(dim=48).state_dict(), "other")


def test_reconstruct_command_by_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model(gaussian="pixel").save_pretrained(tmp_path / "lrm")
    flags = ["--model", str(tmp_path / "lrm"), "--inputs", "4", "--size", "16"]
    assert (
        main(["reconstruct", "demo", "-o", str(tmp_path / "scene"), "--decoder", "lrm", *flags])
        == 0
    )
    assert "Gaussians in" in " ".join(capsys.readouterr().out.split())
    assert len(GaussianScene.load(tmp_path / "scene").gaussians) == 4 * 16 * 16
    assert (
        main(["reconstruct", "demo", "-o", str(tmp_path / "other"), "--decoder", "lvsm", *flags])
        == 2
    )
    assert "is an lrm model" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "other").exists()


def test_each_decoder_has_a_bundled_model() -> None:
    for decoder, name in (("lvsm", "fsm-tiny"), ("lrm", "fsm-tiny-lrm")):
        command = Reconstruct("demo", Path("x"), decoder=decoder)  # pyright: ignore[reportArgumentType]
        assert command._name == name
        assert FSM.from_pretrained(name).decoder == decoder
