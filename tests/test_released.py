"""Released checkpoints: golden outputs, exact conversion under any wrapper, and nothing in a pickle
ever runs.
"""

import json
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from fsm.adapters.golden import TOLERANCE, check_golden
from fsm.adapters.released import (
    convert_state_dict,
    infer_config,
    load_released,
    model_from_released,
    unwrapped,
)
from fsm.checkpoint import weights_hash
from fsm.cli import main
from fsm.errors import InputError
from fsm.model import FSM, ModelConfig
from fsm.ttt import ElasticConfig
from tests.small import small_config, small_model, small_views

GOLDEN = (
    "lacet_ewc_streaming-ema",
    "lacet_mas_global",
    "lacet_mas_streaming-ema",
    "lacet_mas_streaming",
    "lacet_si_streaming-ema",
    "lact_1chunk",
    "lact_3chunk",
    "lact_3chunk_2heads_bf16ns",
)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_outputs(shared_data: Path, name: str) -> None:
    result = check_golden(shared_data / "golden" / f"{name}.safetensors")
    assert result.tolerance == (2e-2 if "bf16" in name else 1e-5)
    assert result.passed, f"off by {result.error:.2e}"
    if "bf16" not in name:
        # what two independent implementations agree to, with room for another machine
        assert result.error < 2e-6


def test_a_tenth_of_lambda_would_be_seen(shared_data: Path, tmp_path: Path) -> None:
    """The golden check can fail: the same file with another pull is off by more than its
    tolerance.
    """
    path = shared_data / "golden" / "lacet_mas_streaming.safetensors"
    with safetensors.safe_open(path, framework="pt") as handle:
        config = json.loads(handle.metadata()["config"])
    config["elastic"]["lam"] += 0.1
    wrong = tmp_path / "wrong.safetensors"
    safetensors.torch.save_file(
        safetensors.torch.load_file(path), wrong, {"config": json.dumps(config)}
    )
    result = check_golden(wrong)
    assert not result.passed
    assert result.error > TOLERANCE["fp32"]


def test_a_file_that_is_not_golden_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file({"output.rgb": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"plain\.safetensors is not a golden file"):
        check_golden(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"config": "{}"})
    with pytest.raises(InputError, match=r"plain\.safetensors is not a golden file"):
        check_golden(path)
    for config in ("{", "[]", "{}", '{"newton_schulz_dtype": "fp8"}'):
        safetensors.torch.save_file({"output.rgb": torch.zeros(1)}, path, {"config": config})
        with pytest.raises(InputError, match=r"plain\.safetensors"):
            check_golden(path)


# The inverse of the adapter, written from the published key list and not from the adapter.
PARTS = {
    "attention_norm.weight": "0.ln.weight",
    "attention.to_qkv.weight": "0.f.to_qkv.weight",
    "attention.q_norm.weight": "0.f.q_norm.weight",
    "attention.k_norm.weight": "0.f.k_norm.weight",
    "attention.out.weight": "0.f.c_proj.weight",
    "ttt_norm.weight": "1.ln.weight",
    "ttt.to_qkv.weight": "1.f.to_qkv.weight",
    "ttt.to_rates.weight": "1.f.lr_fc.weight",
    "ttt.to_rates.bias": "1.f.lr_fc.bias",
    "ttt.o_norm.weight": "1.f.o_norm.weight",
    "ttt.out.weight": "1.f.c_proj.weight",
    "mlp_norm.weight": "2.ln.weight",
    "mlp.up.weight": "2.f.c_fc.weight",
    "mlp.out.weight": "2.f.c_proj.weight",
}


def released_state(model: FSM) -> dict[str, Tensor]:
    """Our model's weights under the published names and shapes."""
    out: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        if key.startswith("encoder.blocks."):
            _, _, i, part = key.split(".", 3)
            if part == "ttt.initial":
                gate, up, down_t = tensor.unbind(1)
                weights = {"w0": gate, "w1": down_t.transpose(-1, -2), "w2": up}
                out |= {
                    f"blocks.{i}.module_list.1.f.{n}": w.contiguous() for n, w in weights.items()
                }
            else:
                out[f"blocks.{i}.module_list.{PARTS[part]}"] = tensor
        else:
            names = {"encoder.embed": "input_linear", "encoder.embed_norm": "input_layernorm"}
            names |= {"head.norm": "image_token_decoder.0", "head.linear": "image_token_decoder.1"}
            out[names[key.removesuffix(".weight")] + ".weight"] = tensor
    return {k: t.clone() for k, t in out.items()}


def _random_model(**options) -> FSM:
    """No two weights alike, norms and biases included, so that a swapped pair of keys shows."""
    model = small_model(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ttt_heads": 2, "expansion": 4},
        {"elastic": None, "chunk_tokens": 0},
        {"mlp_ratio": 3, "dim": 48},
    ],
)
def test_conversion_is_exact_and_finds_the_sizes(options: dict) -> None:
    model = _random_model(**options)
    encoder = model.config.encoder
    weights = convert_state_dict(released_state(model), "test.pth")
    assert _same(weights, model.state_dict())
    found = infer_config(
        weights,
        "test.pth",
        chunk_tokens=encoder.chunk_tokens,
        elastic=encoder.block.elastic,
        ns_dtype=encoder.block.ns_dtype,
    )
    assert found == model.config


@pytest.mark.parametrize("layout", ["lact12", "paper10"])
def test_other_channel_layouts_are_recognised(tmp_path: Path, layout: str) -> None:
    base = small_config(elastic=None, ns_dtype="bfloat16", chunk_tokens=0).encoder
    encoder = type(base)(base.block, base.layers, base.patch, layout, 0)  # pyright: ignore[reportArgumentType]
    model = FSM(ModelConfig(encoder))
    torch.save(released_state(model), tmp_path / "lact.pth")
    made = model_from_released(tmp_path / "lact.pth", chunk_tokens=0)
    assert made.config == model.config
    assert _same(made.state_dict(), model.state_dict())


WRAPPED: dict[str, Callable[[str], str]] = {
    "module.": lambda k: "module." + k,
    "_orig_mod.": lambda k: "_orig_mod." + k,
    "module._orig_mod.": lambda k: "module._orig_mod." + k,
    "_checkpoint_wrapped_module. in blocks": lambda k: k.replace(
        ".module_list.", "._checkpoint_wrapped_module.module_list."
    ),
    "each layer compiled and checkpointed": lambda k: (
        "module." + k.replace(".f.", "._orig_mod.f._checkpoint_wrapped_module.")
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("inside_model", [False, True])
def test_wrappers_change_nothing(tmp_path: Path, wrapper: str, inside_model: bool) -> None:
    model = _random_model(ns_dtype="bfloat16", elastic=None)
    state = {WRAPPED[wrapper](k): t for k, t in released_state(model).items()}
    torch.save({"model": state} if inside_model else state, tmp_path / "a.pth")
    made = model_from_released(tmp_path / "a.pth", chunk_tokens=12)
    assert _same(made.state_dict(), model.state_dict())
    assert made.config == model.config


def test_unwrapping_leaves_published_names_alone() -> None:
    for key in released_state(small_model()):
        assert unwrapped(key) == key


def test_a_training_checkpoint_as_published_loads(tmp_path: Path) -> None:
    """FSM's files hold the whole run: optimizer, scheduler, counters and the elastic buffers of
    every block.
    """
    model = _random_model(ns_dtype="bfloat16", elastic=ElasticConfig("si"))
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    initial = model.encoder.blocks[0].ttt.initial.detach()
    buffers = {
        n: torch.zeros_like(initial[:, 0])
        for n in ("w0_star", "w1_star", "w2_star", "F0", "F1", "F2")
    }
    payload = {
        "model": OrderedDict(released_state(model)),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "now_iters": 32000,
        "epoch": 3,
        "format_version": 2,
        "ewc_buffers": {
            "module.blocks.0._checkpoint_wrapped_module.module_list.1.f": buffers,
            "blocks.1.module_list.1.f": buffers,
        },
    }
    torch.save(payload, tmp_path / "full.pth")
    made = model_from_released(tmp_path / "full.pth", chunk_tokens=12, elastic=ElasticConfig("si"))
    assert made.config == model.config
    assert _same(made.state_dict(), model.state_dict())
    views = small_views()
    assert torch.equal(
        made.reconstruct(views).render(views).rgb, model.reconstruct(views).render(views).rgb
    )


def _without(*names: str):
    def change(state: dict[str, Tensor]) -> None:
        for name in names:
            del state[name]

    return change


def _with(name: str, tensor: Tensor):
    def change(state: dict[str, Tensor]) -> None:
        state[name] = tensor

    return change


FAST = "blocks.1.module_list.1.f."
DAMAGED = {
    "a fast weight is missing": (
        _without(FAST + "w1"),
        "lacks fast weights of block 1: found w0, w2",
    ),
    "all fast weights of a block are missing": (
        _without(FAST + "w0", FAST + "w1", FAST + "w2"),
        "missing encoder.blocks.1.ttt.initial",
    ),
    "fast weights that do not go together": (
        _with(FAST + "w1", torch.zeros(1, 8, 8)),
        "fast weights of block 1",
    ),
    "fast weights without heads": (_with(FAST + "w1", torch.zeros(8)), "fast weights of block 1"),
    "a key is missing": (
        _without("blocks.1.module_list.0.ln.weight"),
        "missing encoder.blocks.1.attention_norm",
    ),
    "the first MLP is missing": (_without("blocks.0.module_list.2.f.c_fc.weight"), "lacks"),
    "the first block is missing": (
        lambda s: [s.pop(k) for k in list(s) if k.startswith("blocks.0.")],
        "lacks 'encoder.blocks.0",
    ),
    "the embedding is missing": (_without("input_linear.weight"), "lacks 'encoder.embed.weight'"),
    "the decoder is missing": (
        _without("image_token_decoder.1.weight"),
        "lacks 'head.linear.weight'",
    ),
    "an unknown key": (
        _with("blocks.0.module_list.3.f.weight", torch.zeros(1)),
        "holds the key 'blocks.0.module_l",
    ),
    "another model altogether": (
        _with("transformer.wte.weight", torch.zeros(1)),
        "holds the key 'transformer.wte",
    ),
    "an embedding without channels": (
        _with("input_linear.weight", torch.zeros(32)),
        "input_linear|embed",
    ),
    "an embedding of no known layout": (
        _with("input_linear.weight", torch.zeros(32, 11 * 64)),
        "none of the known",
    ),
    "a decoder without pixels": (
        _with("image_token_decoder.1.weight", torch.zeros(0, 32)),
        "decoder|head",
    ),
    "a billion layers": (
        _with("blocks.999999999.module_list.0.ln.weight", torch.zeros(32)),
        "blocks are not numbered 0 to",
    ),
    "NaN": (_with("input_layernorm.weight", torch.full((32,), float("nan"))), "NaN or infinite"),
    "one tensor under two names": (
        _with("module.input_layernorm.weight", torch.zeros(32)),
        "input_layernorm.weight' twice",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_state_dicts_that_are_not_whole_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    change, says = DAMAGED[kind]
    state = released_state(small_model())
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"a\.pth:? .*({says})") as caught:
        model_from_released(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


class _Canary:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["whole", "beside", "inside"])
def test_a_pickled_payload_is_refused_and_not_run(tmp_path: Path, legacy: bool, where: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    evil = _Canary(canary)
    state = released_state(small_model())
    payload = {
        "whole": evil,
        "beside": {"model": state, "optimizer": evil},
        "inside": {"model": {**state, "x": evil}},
    }
    if legacy:
        path.write_bytes(pickle.dumps(payload[where], protocol=2))
    else:
        torch.save(payload[where], path)
    with pytest.raises(InputError, match=r"evil\.pth was refused .*nothing in it was run"):
        load_released(path)
    assert main(["convert", str(path), "-o", str(tmp_path / "out")]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth"]
    with open(path, "rb") as handle:  # the payload does work where pickles are trusted
        if legacy:
            pickle.load(handle)
        else:
            torch.load(handle, weights_only=False)
    assert canary.exists()


def test_numpy_scalars_are_refused_not_trusted(tmp_path: Path) -> None:
    import numpy as np

    torch.save(
        {"model": released_state(small_model()), "loss": np.float64(0.5)}, tmp_path / "a.pth"
    )
    with pytest.raises(InputError, match="was refused"):
        load_released(tmp_path / "a.pth")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save({"model": released_state(small_model())}, path)
    data, cut = path.read_bytes(), tmp_path / "cut.pth"
    for sixteenth in range(16):
        cut.write_bytes(data[: len(data) * sixteenth // 16])
        with pytest.raises(InputError, match=r"cut\.pth was refused or cannot be read"):
            load_released(cut)


def test_rubbish_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rubbish.pth"
    generator = random.Random(0)
    legacy = pickle.dumps({"a": [1, 2.0, "b", None, {3: (4,)}]})
    samples = [b"", b"\x80", b"PK\x03\x04", b"hello", b"\x80\x02}q\x00.", b"\x80\x05.", legacy[:-1]]
    samples += [generator.randbytes(generator.randrange(1, 300)) for _ in range(100)]
    for _ in range(200):
        damaged = bytearray(legacy)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        samples.append(bytes(damaged))
    for sample in samples:
        path.write_bytes(sample)
        with pytest.raises(InputError, match=r"rubbish\.pth"):
            load_released(path)


@pytest.mark.parametrize(
    "payload", [[], 3, {"model": 3}, {"a": 3}, {"model": {"a": [1]}}, torch.zeros(3), {}]
)
def test_payloads_without_a_state_dict_are_named(tmp_path: Path, payload: object) -> None:
    torch.save(payload, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth"):
        model_from_released(tmp_path / "a.pth")


def test_convert_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _random_model(ns_dtype="bfloat16", elastic=ElasticConfig("mas", "global"))
    torch.save({"model": released_state(model)}, tmp_path / "released.pth")
    out = tmp_path / "model"
    flags = ["--chunk-tokens", "12", "--elastic", "mas", "--anchor", "global"]
    assert main(["convert", str(tmp_path / "released.pth"), "-o", str(out), *flags]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 layers of width 32, patch 8, layout fsm13" in said
    made = FSM.from_pretrained(out)
    assert made.config == model.config
    assert weights_hash(made) == weights_hash(model)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    assert main(["convert", str(tmp_path / "missing.pth"), "-o", str(out)]) == 2
    assert weights_hash(FSM.from_pretrained(out)) == weights_hash(model)
    plain = tmp_path / "plain"
    assert (
        main(["convert", str(tmp_path / "released.pth"), "-o", str(plain), "--elastic", "none"])
        == 0
    )
    assert FSM.from_pretrained(plain).config.encoder.block.elastic is None
