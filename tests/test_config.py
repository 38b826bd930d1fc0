"""Configs: strict in both directions, every refusal names where, what and the way out."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from fsm.config import Partial, from_dict, to_dict
from fsm.errors import InputError
from fsm.renderers.heads.reference import ReferenceHeadConfig
from fsm.train.config import TrainConfig, load_preset, overridden, preset_names


@dataclass(frozen=True)
class Inner:
    width: int = 3
    kind: Literal["round", "square", 4] = "round"

    def __post_init__(self) -> None:
        if self.width < 0:
            raise InputError(f"width is {self.width}, must be at least 0.")


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.5
    on: bool = False
    inner: Inner = Inner()
    maybe: Inner | None = None
    either: int | str = 1
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[Inner, ...] = ()
    table: dict[str, int] = field(default_factory=dict)
    hidden: int = field(default=7, init=False)


@dataclass(frozen=True)
class Ball:
    kind: Literal["ball"] = "ball"
    radius: float = 1.0


@dataclass(frozen=True)
class Box:
    kind: Literal["box"] = "box"
    width: int = 2


@dataclass(frozen=True)
class Shelf:
    thing: Ball | Box = Ball()
    spare: Ball | Box | None = None


FULL = {
    "name": "x",
    "rate": 2,
    "on": True,
    "inner": {"width": 5, "kind": "square"},
    "maybe": {"kind": 4},
    "either": "text",
    "pair": [3, 4],
    "many": [{"width": 1}, {}],
    "table": {"a": 1},
}


def test_values_arrive_with_their_types() -> None:
    made = from_dict(Outer, FULL, "here")
    assert made == Outer(
        "x",
        2.0,
        True,
        Inner(5, "square"),
        Inner(3, 4),
        "text",
        (3, 4.0),
        (Inner(1), Inner()),
        {"a": 1},
    )
    assert [type(v) for v in (made.rate, made.pair[1])] == [float, float]
    assert from_dict(Outer, {"name": "y"}, "here") == Outer("y")
    assert from_dict(Outer, {"name": "y", "maybe": None}, "here").maybe is None


def test_to_dict_is_the_inverse_and_plain() -> None:
    made = from_dict(Outer, FULL, "here")
    values = to_dict(made)
    assert from_dict(Outer, values, "here") == made
    assert values["many"] == [{"width": 1, "kind": "round"}, {"width": 3, "kind": "round"}]
    assert "hidden" not in values


def test_the_kind_of_a_tagged_union_says_which_dataclass_it_is() -> None:
    made = from_dict(Shelf, {"thing": {"kind": "box", "width": 3}, "spare": {"kind": "ball"}}, "x")
    assert made == Shelf(Box(width=3), Ball())
    assert from_dict(Shelf, to_dict(made), "x") == made
    assert from_dict(Shelf, {"spare": None}, "x") == Shelf()


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        ({"kind": "bxo"}, "here: thing has kind 'bxo'; did you mean 'box'?"),
        ({"kind": 3}, "here: thing has kind 3; choose one of 'ball', 'box'."),
        ({"kind": ["box"]}, r"here: thing has kind \['box'\]; did you mean 'box'"),
        ({"width": 3}, "here: thing lacks the key 'kind'; choose one of 'ball', 'box'."),
        (
            "box",
            "here: thing is 'box', expected named values with a kind; choose one of 'ball', 'box'.",
        ),
        (
            None,
            "here: thing is None, expected named values with a kind; choose one of 'ball', 'box'.",
        ),
        (
            {"kind": "ball", "width": 3},
            "here: thing has unknown key 'width'; known keys",
        ),
        ({"kind": "box", "width": "3"}, "here: thing: width is '3'"),
    ],
)
def test_a_wrong_member_of_a_tagged_union_is_named(thing: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        from_dict(Shelf, {"thing": thing}, "here")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_round_trips(name: str) -> None:
    config = load_preset(name)
    assert from_dict(TrainConfig, to_dict(config), name) == config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nmae": "x"}, "here has unknown key 'nmae'; did you mean 'name'?"),
        ({"zzz": 1}, "here has unknown key 'zzz'; known keys: name, rate, on, inner"),
        ({3: 1}, "here has unknown key 3; known keys"),
        ({"hidden": 1}, "unknown key 'hidden'"),
        ({"inner": {"widht": 1}}, "here: inner has unknown key 'widht'; did you mean 'width'?"),
        ({"inner": {"width": 1.0}}, r"here: inner: width is 1.0 \(float\), expected int"),
        ({"inner": {"width": True}}, r"here: inner: width is True \(bool\), expected int"),
        ({"inner": {"width": -1}}, "here: inner: width is -1, must be at least 0"),
        (
            {"inner": {"kind": "oval"}},
            "here: inner: kind is 'oval'; choose one of 'round', 'square', 4",
        ),
        ({"inner": None}, "here: inner should hold named values for Inner, found NoneType"),
        ({"inner": "os.system"}, "here: inner should hold named values for Inner, found str"),
        ({"maybe": {"width": "wide"}}, "here: maybe: width is 'wide'"),
        ({"maybe": 3}, "here: maybe should hold named values"),
        ({"either": 1.5}, r"here: either is 1.5 \(float\)"),
        ({"rate": "0.5"}, r"here: rate is '0.5' \(str\), expected float"),
        ({"rate": True}, "here: rate is True"),
        ({"rate": None}, "here: rate is None"),
        ({"on": 1}, r"here: on is 1 \(int\), expected bool"),
        ({"name": 5}, r"here: name is 5 \(int\), expected str"),
        ({"pair": [1]}, "here: pair has 1 entries, expected 2"),
        ({"pair": [1, "b"]}, r"here: pair\[1\] is 'b'"),
        ({"pair": 7}, "here: pair is 7, expected a list"),
        ({"pair": "12"}, "here: pair is '12', expected a list"),
        ({"many": [{"width": 1}, {"width": "b"}]}, r"here: many\[1\]: width is 'b'"),
        ({"table": [1]}, "here: table is .*expected named values"),
        ({"table": {"a": "b"}}, r"here: table\.a is 'b'"),
    ],
)
def test_refusals_say_where_what_and_the_way_out(change: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        from_dict(Outer, {**FULL, **change}, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_anything_but_named_values_is_refused(values: object) -> None:
    with pytest.raises(InputError, match="here should hold named values for Outer"):
        from_dict(Outer, values, "here")


@dataclass(frozen=True)
class Change:
    step: int
    inner: Partial[Inner] = Partial()


def test_a_partial_holds_the_fields_given_beside_the_others() -> None:
    made = from_dict(Change, {"step": 1, "width": 5, "kind": None}, "here")
    assert made == Change(1, Partial({"width": 5}))
    assert made.inner.applied(Inner(3, "square")) == Inner(5, "square")
    assert to_dict(made) == {"step": 1, "width": 5}
    assert from_dict(Change, to_dict(made), "here") == made
    assert from_dict(Change, {"step": 1}, "here").inner.applied(Inner(3)) == Inner(3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"widht": 5}, "here has unknown key 'widht'; did you mean 'width'?"),
        ({"zzz": 5}, "here has unknown key 'zzz'; known keys: step, width, kind"),
        ({"inner": {"width": 5}}, "here has unknown key 'inner'"),
        ({"width": "b"}, r"here: width is 'b' \(str\), expected int"),
    ],
)
def test_refusals_of_partials_name_the_field(change: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        from_dict(Change, {"step": 1, **change}, "here")


def test_a_required_key_is_asked_for() -> None:
    with pytest.raises(InputError, match="here lacks the required key 'name'"):
        from_dict(Outer, {"rate": 1.0}, "here")


def test_overrides_reach_any_depth_and_leave_the_original_alone() -> None:
    values = to_dict(load_preset("base"))
    assert values["model"]["head"] == {"kind": "lvsm"}
    changed = overridden(
        values,
        (
            "optim.lr=0.5",
            "data.hw=[64, 32]",
            "model.head.kind=reference",
            "model.head.hidden=8",
            "optim.lpips=none",
        ),
    )
    config = from_dict(TrainConfig, changed, "test")
    assert (config.optim.lr, config.data.hw, config.optim.lpips) == (0.5, (64, 32), "none")
    assert config.model.head == ReferenceHeadConfig(hidden=8)
    assert values == to_dict(load_preset("base"))
    staged = from_dict(
        TrainConfig, overridden(values, ("stages.0.batch=8", "stages.1.inputs=[4]")), "test"
    )
    held = [data for _, data in staged.data_stages()]
    assert (held[1].batch, held[2].inputs) == (8, (4,))
    off = overridden(changed, ("model.encoder.block.elastic=null",))
    again = overridden(off, ("model.encoder.block.elastic.lam=0.25",))
    elastic = from_dict(TrainConfig, again, "test").model.encoder.block.elastic
    assert elastic is not None
    assert elastic.lam == 0.25


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("optim.lr", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("optim.lr.peak=3", "'lr' is a single value, it has no part 'peak'"),
        ("stages.7.batch=3", "'stages' has 4 entries, counted from 0"),
        ("stages.0=3", "'stages' has 4 entries, counted from 0"),
        ("stages.1.hw.height=3", "'hw' is a single value, it has no part 'height'"),
        ("optim.lr=[1", "the value is not YAML"),
        ("optim.lr=!!python/object/apply:os.getcwd []", "the value is not YAML"),
        ("optim.lr=2020-13-45", "the value is not YAML"),
    ],
)
def test_wrong_overrides_are_quoted(assignment: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        overridden(to_dict(load_preset("small")), (assignment,))
    assert assignment in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("optim.stpes=3", "optim has unknown key 'stpes'; did you mean 'steps'"),
        ("modle.encoder.layers=2", "unknown key 'modle'; did you mean 'model'"),
        ("optim.lpips=vgg19", "lpips is 'vgg19'; choose one of 'none', 'alex', 'squeeze', 'vgg'"),
        ("data.window=[9, 3]", "window"),
        ("data.inputs=[]", "at least one input, target and batch entry"),
        ("data.sources=[]", "at least one source"),
        ("data.hw=[0, 32]", "hw is"),
        ("data.zoom=0.5", "zoom is 0.5"),
        ("data.even=2", "even is 2"),
        ("optim.steps=0", "steps is 0"),
        ("optim.lr=-1", "lr is -1"),
        ("optim.ema=1.5", "ema is 1.5"),
        ("optim.warmup=-3", "warmup is -3"),
        ("log_every=0", "log_every is 0"),
        ("save_every=0", "save_every is 0"),
    ],
)
def test_values_no_run_can_use_are_refused_before_it_starts(assignment: str, says: str) -> None:
    values = overridden(to_dict(load_preset("tiny")), (assignment,))
    with pytest.raises(InputError, match=says):
        from_dict(TrainConfig, values, "tiny")


def test_unknown_presets_list_the_known_ones(tmp_path) -> None:
    with pytest.raises(InputError, match="presets are " + ", ".join(preset_names())):
        load_preset("huge")
    path = tmp_path / "own.yaml"
    path.write_text("optim: {lr: 0.25}\n")
    assert load_preset(str(path)).optim.lr == 0.25
    path.write_text("")
    assert load_preset(str(path)) == TrainConfig()
    path.write_text("- a list\n")
    with pytest.raises(InputError, match=r"own\.yaml should hold named values"):
        load_preset(str(path))


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_preset("tiny").seed = 3  # pyright: ignore[reportAttributeAccessIssue]
