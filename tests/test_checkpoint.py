"""Checkpoints: exact round trips, and every damaged, foreign or ambiguous file refused in one
sentence.
"""

import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import fsm.checkpoint
from fsm.checkpoint import load_weights, upgraded, weights_hash
from fsm.config import from_dict
from fsm.errors import InputError
from fsm.files import read_safetensors
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.lrm import LrmHeadConfig
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHeadConfig
from fsm.renderers.heads.reference import ReferenceHeadConfig
from fsm.renderers.stereo.config import StereoConfig, SweepConfig
from tests.small import small_config, small_model, small_views


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model(reference=True).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _rewrite(folder: Path, change) -> None:
    """Load the weights of a checkpoint folder, change the dictionary in place, store it again."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("reference", [False, True])
def test_float32_round_trip_is_exact(tmp_path: Path, reference: bool) -> None:
    model = small_model(reference=reference)
    model.save_pretrained(tmp_path / "model")
    again = FSM.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert not again.training
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    own, other = model.state_dict(), again.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[k], other[k]) for k in own)
    assert weights_hash(model) == weights_hash(again)
    views = small_views()
    assert torch.equal(
        model.reconstruct(views).render(views).rgb, again.reconstruct(views).render(views).rgb
    )


def test_bfloat16_file_is_half_the_size_and_loads_as_rounded_float32(tmp_path: Path) -> None:
    model = small_model()
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    full, half = ((tmp_path / n / "model.safetensors").stat().st_size for n in ("full", "half"))
    assert 0.45 < half / full < 0.6
    again = FSM.from_pretrained(tmp_path / "half").state_dict()
    for name, value in model.state_dict().items():
        assert again[name].dtype == torch.float32
        assert torch.equal(again[name], value.bfloat16().float()), name


def test_saving_replaces_an_older_checkpoint_and_leaves_nothing_else(tmp_path: Path) -> None:
    for seed in (0, 1):
        small_model(seed).save_pretrained(tmp_path / "model")
    assert weights_hash(FSM.from_pretrained(tmp_path / "model")) == weights_hash(small_model(1))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis.*not a checkpoint"):
        small_model().save_pretrained(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]
    (tmp_path / "empty").mkdir()
    small_model().save_pretrained(tmp_path / "empty")
    assert weights_hash(FSM.from_pretrained(tmp_path / "empty")) == weights_hash(small_model())


@pytest.mark.parametrize("how", ["before", "half-way", "after"])
def test_a_failure_while_saving_leaves_the_old_checkpoint(
    folder: Path, monkeypatch, how: str
) -> None:
    before = weights_hash(FSM.from_pretrained(folder))
    genuine = safetensors.torch.save_file

    def broken(tensors, filename, metadata=None) -> None:
        if how != "before":
            genuine(tensors, filename, metadata)
        if how == "half-way":
            data = Path(filename).read_bytes()
            Path(filename).write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device", str(filename))

    monkeypatch.setattr(safetensors.torch, "save_file", broken)
    with pytest.raises(OSError, match="No space left"):
        small_model(7, reference=True).save_pretrained(folder)
    assert weights_hash(FSM.from_pretrained(folder)) == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_bundled_names_load_by_name_and_remember_it(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(fsm.checkpoint, "BUNDLED", folder.parent)
    assert fsm.checkpoint.bundled_names() == ["model"]
    assert FSM.from_pretrained("model").name == "model"
    assert FSM.from_pretrained(folder).name is None


@pytest.mark.parametrize(
    "name", ["no-such-model", "a/b/c", "../up", "./here", "~/home", "/absolute/path", "owner/"]
)
def test_names_that_are_nowhere_list_the_places_and_never_reach_the_network(
    monkeypatch, name: str
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", _forbidden)
    with pytest.raises(InputError, match="neither a folder, nor bundled"):
        FSM.from_pretrained(name)


def test_hub_names_are_fetched_by_the_hub_client_only(folder: Path, monkeypatch) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert FSM.from_pretrained("owner/name").name == "owner/name"
    assert asked == [("owner/name", ["config.json", "model.safetensors"])]


def test_an_unreachable_hub_is_one_sentence(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"'owner/name' could not be fetched .*local folder"
    ) as caught:
        FSM.from_pretrained("owner/name")
    assert "\n" not in str(caught.value)


def test_local_checkpoints_never_reach_the_network(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", _forbidden)
    FSM.from_pretrained(folder)


def _forbidden(*_: object, **__: object) -> str:
    raise AssertionError("the network was asked")


def _drop_a_key(weights: dict[str, Tensor]) -> None:
    del weights["encoder.embed.weight"]


def _add_a_key(weights: dict[str, Tensor]) -> None:
    weights["encoder.extra"] = torch.zeros(1)


def _transpose_a_key(weights: dict[str, Tensor]) -> None:
    weights["encoder.embed.weight"] = weights["encoder.embed.weight"].T.contiguous()


def _poison(value: float):
    def change(weights: dict[str, Tensor]) -> None:
        weights["encoder.blocks.1.mlp.out.weight"][3, 4] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_drop_a_key, "missing encoder.embed.weight"),
        (_add_a_key, "unknown encoder.extra"),
        (_transpose_a_key, r"encoder.embed.weight has shape \(832, 32\) instead of \(32, 832\)"),
        (_poison(float("nan")), "encoder.blocks.1.mlp.out.weight holds NaN or infinite values"),
        (_poison(float("-inf")), "encoder.blocks.1.mlp.out.weight holds NaN or infinite values"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, change, says: str) -> None:
    _rewrite(folder, change)
    with pytest.raises(InputError, match=rf"model\.safetensors does not fit this model: .*{says}"):
        FSM.from_pretrained(folder)


def test_nothing_is_loaded_where_anything_is_wrong_and_ten_faults_are_listed() -> None:
    model, other = small_model(0), small_model(1).state_dict()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    names = sorted(other)
    for name in names[:8]:
        del other[name]
    other |= {f"new{i}": torch.zeros(1) for i in range(9)}
    other[names[9]] = torch.zeros(2, 3)
    with pytest.raises(InputError) as caught:
        load_weights(model, other, "other.safetensors")
    message = str(caught.value)
    assert message.count(";") == 9
    assert "and 8 more" in message
    assert message.count("missing") == 8
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_every_truncation_is_refused(folder: Path, tmp_path: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for sixteenth in range(16):
        path.write_bytes(data[: len(data) * sixteenth // 16])
        with pytest.raises(InputError, match=r"cut\.safetensors"):
            read_safetensors(path)
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match=r"cut\.safetensors is not a complete"):
        read_safetensors(path)


def _file(header: dict | list | str, data: bytes = b"", length: int | None = None) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
MALFORMED = {
    "header of 2^62 bytes": _file({"a": ONE}, bytes(8), 1 << 62),
    "header of 2^64 - 1 bytes": _file({"a": ONE}, bytes(8), (1 << 64) - 1),
    "header one byte past the end": _file({"a": ONE}, b"", len(json.dumps({"a": ONE})) + 1),
    "offsets past the end": _file({"a": {**ONE, "data_offsets": [0, 800]}}, bytes(8)),
    "offsets that overlap": _file({"a": ONE, "b": {**ONE, "data_offsets": [4, 12]}}, bytes(12)),
    "shape that is not the offsets'": _file({"a": {**ONE, "shape": [3]}}, bytes(8)),
    "shape whose size overflows": _file({"a": {**ONE, "shape": [1 << 40, 1 << 40]}}, bytes(8)),
    "unknown dtype": _file({"a": {**ONE, "dtype": "PICKLE"}}, bytes(8)),
    "a list for a header": _file([1, 2]),
    "a number too long to parse": _file('{"a": ' + "9" * 5000 + "}"),
    "brackets too deep to parse": _file("[" * 100_000),
    "not UTF-8": struct.pack("<Q", 2) + b"\xff\xfe",
    "no JSON": _file("hello"),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(MALFORMED[kind])
    with pytest.raises(InputError, match=r"bad\.safetensors") as caught:
        read_safetensors(path)
    assert len(str(caught.value)) < 600


def test_a_tensor_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.safetensors"
    one = json.dumps(ONE)
    path.write_bytes(_file(f'{{"a": {one}, "a": {one}}}', bytes(8)))
    with pytest.raises(InputError, match="names the tensor 'a' twice"):
        read_safetensors(path)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        FSM.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        FSM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(format=2), "has format 2, this version reads 1"),
        (lambda c: c.pop("format"), "has format None"),
        (lambda c: c.pop("model"), "should hold named values"),
        (
            lambda c: c["model"]["encoder"].update(layrs=3),
            "unknown key 'layrs'; did you mean 'layers'",
        ),
        (lambda c: c["model"]["encoder"].update(layers="two"), "encoder: layers is 'two'"),
        (lambda c: c["model"]["encoder"].update(layers=0), "layers is 0, must be at least 1"),
        (lambda c: c["model"]["encoder"]["block"].update(dim=-32), "dim is -32"),
        (lambda c: c["model"]["encoder"]["block"].update(dim=33), "does not divide dim 33"),
        (lambda c: c["model"]["encoder"]["block"].update(expansion=0), "expansion is 0"),
        (lambda c: c["model"]["encoder"]["block"].update(mlp_ratio=-1), "mlp_ratio is -1"),
        (lambda c: c["model"]["encoder"]["block"].update(ns_steps=-1), "ns_steps is -1"),
        (lambda c: c["model"]["encoder"]["block"].update(base_lr=0.0), "base_lr is 0.0"),
        (lambda c: c["model"]["encoder"]["block"].update(base_lr=float("nan")), "base_lr is nan"),
        (
            lambda c: c["model"]["encoder"]["block"].update(ns_dtype="float8"),
            "ns_dtype is 'float8'; choose one of",
        ),
        (lambda c: c["model"]["encoder"]["block"]["elastic"].update(lam=-1.0), "elastic.lam is -1.0"),
        (lambda c: c["model"]["head"].update(references=0), "references is 0"),
        (lambda c: c["model"]["head"].update(cells=0), "cells is 0"),
        (lambda c: c["model"]["head"].update(refinements=[0]), "refinements"),
    ],
)
def test_wrong_configs_name_file_and_field(folder: Path, change, says: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json.*{says}"):
        FSM.from_pretrained(folder)


def test_a_config_that_is_no_json_object_is_named(folder: Path) -> None:
    for text in ("[]", "{", "null", "\xff", '{"format": ' + "1" * 5000 + "}"):
        (folder / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=r"config\.json"):
            FSM.from_pretrained(folder)


def test_a_checkpoint_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    FSM(small_config(dim=64)).save_pretrained(tmp_path / "wide")
    (folder / "model.safetensors").write_bytes(
        (tmp_path / "wide" / "model.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match="does not fit this model"):
        FSM.from_pretrained(folder)


def test_the_hash_follows_names_and_values() -> None:
    model = small_model()
    first = weights_hash(model)
    with torch.no_grad():
        model.encoder.embed.weight[0, 0] += 1e-6
    assert weights_hash(model) != first


REFERENCE = {
    "references": 4,
    "sampling": "depth",
    "hidden": 256,
    "cells": 2,
    "planes": 32,
    "fine_planes": 8,
    "occlusion": True,
    "motion_guess": True,
    "refinements": [4, 2],
    "refinement_width": 48,
    "synthesis_width": 48,
}
GAUSSIANS = {
    "variant": "pixel",
    "near": None,
    "far": None,
    "hidden": 256,
    "references": 4,
    "planes": 32,
    "fine_planes": 8,
    "detail_width": 32,
}
"""The heads of the bundled models as older configs have them."""


@pytest.mark.parametrize(
    ("reference", "gaussian", "head"),
    [
        (None, None, LvsmHeadConfig()),
        (REFERENCE, None, ReferenceHeadConfig()),
        (
            {"references": 2, "hidden": 16, "planes": 8},
            None,
            ReferenceHeadConfig(
                references=2,
                hidden=16,
                stereo=StereoConfig(sources=2, sweep=SweepConfig(planes=8)),
            ),
        ),
        (None, GAUSSIANS, PixelGaussianHeadConfig()),
        (None, {"detail_width": 8}, PixelGaussianHeadConfig(detail_width=8)),
        (None, {**GAUSSIANS, "variant": "fsm", "far": 50.0}, LrmHeadConfig(far=50.0)),
        (None, {**GAUSSIANS, "variant": "4d-lrm"}, LrmHeadConfig(variant="4d-lrm")),
    ],
)
def test_older_configs_name_the_same_heads(reference, gaussian, head) -> None:
    old = {"encoder": {"layers": 3}, "reference_head": reference, "gaussian_head": gaussian}
    config = from_dict(ModelConfig, upgraded(old, "here"), "here")
    assert config.head == head
    assert config.encoder.layers == 3
    assert set(old) == {"encoder", "reference_head", "gaussian_head"}, "unchanged"


@pytest.mark.parametrize(
    ("old", "says"),
    [
        ({"reference_head": {"sampling": "offset"}}, "here: reference_head has sampling 'offset'"),
        ({"reference_head": {"occlusion": False}}, "here: reference_head has occlusion False"),
        ({"reference_head": REFERENCE, "gaussian_head": GAUSSIANS}, "here should give one of"),
        ({"reference_head": 3}, "here should give one of"),
    ],
)
def test_what_no_head_does_any_more_is_refused(old, says: str) -> None:
    with pytest.raises(InputError, match=says):
        upgraded(old, "here")


def test_configs_of_now_and_damaged_ones_are_left_alone() -> None:
    for config in ({"encoder": {}, "head": {"kind": "lvsm"}}, None, [], "text"):
        assert upgraded(config, "here") is config


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("fsm-tiny", {"reference_head": REFERENCE, "gaussian_head": None}),
        ("fsm-tiny-lrm", {"reference_head": None, "gaussian_head": GAUSSIANS}),
    ],
)
def test_bundled_weights_with_an_older_config_are_the_same_model(
    tmp_path: Path, name: str, fields: dict
) -> None:
    bundled = FSM.from_pretrained(name)
    bundled.save_pretrained(tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["model"]["head"]
    config["model"].update(fields)
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    again = FSM.from_pretrained(tmp_path / "old")
    assert again.config == bundled.config
    assert weights_hash(again) == weights_hash(bundled)
