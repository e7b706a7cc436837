"""Every kind of fault in a config is an error with its dotted path and what would be accepted."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import MISSING, DictConfig, OmegaConf

from njsl.core import config
from njsl.core.check import build, check
from njsl.core.types import ConfigError

CONF = Path(__file__).parents[2] / "conf"
HERE = "njsl.core.parts_of_this_test"


class Part:
    """A component of every kind of parameter."""

    supplied: ClassVar[tuple[str, ...]] = ("output",)

    def __init__(
        self,
        *,
        depth: int,
        rate: float = 0.1,
        kind: Literal["tree", "line"] = "tree",
        name: str | None = None,
        flag: bool = False,
        shape: tuple[int, float] = (1, 2.0),
        many: Sequence[float] = (),
        weights: dict[str, float] | None = None,
        folder: Path = Path("."),
        output: Path | None = None,
    ) -> None:
        self.depth, self.rate, self.kind, self.name, self.flag = depth, rate, kind, name, flag
        self.shape, self.many, self.weights, self.folder, self.output = shape, many, weights, folder, output


class Bare:
    """A component without parameters."""


class Open:
    """Takes anything, so nothing about it can be checked."""

    def __init__(self, **kwargs: Any) -> None:
        pass


@dataclass
class Piece:
    """A part of a ``Nest``: some names, and a component of its own."""

    names: list[str]
    predictor: Mapping[str, Any]
    rate: float = 0.1


class Nest:
    """A component of named parts that hold components, as a stack of predictors does."""

    def __init__(self, *, members: dict[str, Piece], depth: int = 3) -> None:
        self.members, self.depth = members, depth


class Foreign:
    """Lives in njsl's module by name only."""


@dataclass
class Inner:
    count: int = 1
    share: float = 0.5
    names: list[str] = field(default_factory=list)


@dataclass
class Schema:
    level: str = config.choice("low", "high", default="low")
    needed: int = MISSING
    chosen: str = config.choice("a", "b")
    inner: Inner = field(default_factory=Inner)
    sets: dict[str, Inner] = field(default_factory=dict)
    predictor: dict[str, Any] = field(default_factory=dict)
    cv: dict[str, Any] = field(default_factory=dict)
    logger: Any = None
    free: Any = None
    seeds: list[int] = field(default_factory=lambda: [0])
    maybe: int | None = None
    on: bool = True


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of njsl that holds the classes above, as a plug-in's file would."""
    module = types.ModuleType(HERE)
    for part in (Part, Bare, Open, Nest):
        monkeypatch.setattr(part, "__module__", HERE)
        setattr(module, part.__name__, part)
    module.Foreign = Foreign  # type: ignore[attr-defined]
    module.run = subprocess.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, HERE, module)


def good(**changes: Any) -> dict[str, Any]:
    part = {"_target_": f"{HERE}.Part", "depth": 3}
    plain = {"_target_": f"{HERE}.Bare"}
    base = {
        "needed": 1,
        "chosen": "a",
        "sets": {"x": {"count": 2}},
        "predictor": {"part": part},
        "cv": {"bare": plain},
        "logger": plain,
    }
    return {**base, **changes}


def untyped(values: dict[str, Any]) -> DictConfig:
    """A config that holds what got past OmegaConf: no type was enforced while composing."""
    defaults = OmegaConf.to_container(OmegaConf.structured(Schema))
    assert isinstance(defaults, dict)
    return OmegaConf.create({**defaults, **values})


def part(**parameters: Any) -> dict[str, Any]:
    return {"part": {"_target_": f"{HERE}.Part", "depth": 3, **parameters}}


def nest(predictor: Any = MISSING, **values: Any) -> dict[str, Any]:
    """A nest of the one piece ``a``; what is None is left out, what is ``null`` is null."""
    inside = {"_target_": f"{HERE}.Part", "depth": 3} if predictor is MISSING else predictor
    piece = {key: value for key, value in {"names": ["x"], "predictor": inside, **values}.items() if value is not None}
    piece = {key: None if value == "null" else value for key, value in piece.items()}
    return {"nest": {"_target_": f"{HERE}.Nest", "members": {"a": piece}}}


def members(value: Any) -> dict[str, Any]:
    return {"nest": {"_target_": f"{HERE}.Nest", "members": value}}


def inside(**parameters: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.Part", "depth": 3, **parameters}


def test_a_good_config_passes() -> None:
    check(untyped(good()), Schema)
    check(OmegaConf.merge(OmegaConf.structured(Schema), good()), Schema)  # type: ignore[arg-type]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"zzz": 3}, r"^zzz: unknown key; accepted: level, needed, .*seeds"),
    ({"seds": [3]}, r"^seds: unknown key \(did you mean 'seeds'\?\)"),
    ({"inner": {"cuont": 1}}, r"^inner\.cuont: unknown key \(did you mean 'count'\?\); accepted: count, share, names"),
    ({"sets": {"x": {"nmes": []}}}, r"^sets\.x\.nmes: unknown key"),
    ({"level": "hihg"}, r"^level: 'hihg' is not known \(did you mean 'high'\?\); accepted: low, high"),
    ({"needed": "???"}, r"^needed: a value is required$"),
    ({"chosen": "???"}, r"^chosen: a value is required: a, b$"),
    ({"needed": True}, r"^needed: expected an int, got True \(bool\)"),
    ({"needed": 1.0}, r"^needed: expected an int, got 1.0 \(float\)"),
    ({"needed": None}, r"^needed: expected an int, got null"),
    ({"maybe": "x"}, r"^maybe: expected an int or null, got 'x' \(str\)"),
    ({"on": 1}, r"^on: expected true or false, got 1 \(int\)"),
    ({"inner": {"share": "x"}}, r"^inner\.share: expected a number, got 'x'"),
    ({"inner": {"names": "x"}}, r"^inner\.names: expected a list, each a string, got 'x'"),
    ({"inner": {"names": ["x", 2]}}, r"^inner\.names\[1\]: expected a string, got 2"),
    ({"inner": 3}, r"^inner: expected named values, got 3"),
    ({"seeds": "abc"}, r"^seeds: expected a list, each an int, got 'abc'"),
    ({"seeds": 3}, r"^seeds: expected a list"),
    ({"seeds": []}, r"^seeds: at least one seed"),
    ({"seeds": [1, 2, 1]}, r"^seeds: 1 is given twice"),
    ({"seeds": [1, -1]}, r"^seeds\[1\]: expected a seed from 0"),
    ({"seeds": [True]}, r"^seeds\[0\]: expected an int"),
    ({"sets": {}}, r"^sets: at least one is required"),
    ({"sets": {"x": 3}}, r"^sets\.x: expected named values"),
    ({"predictor": {}}, r"^predictor: at least one is required, e\.g\. predictor=\[NAME\]"),
    ({"predictor": None}, r"^predictor: expected named parts, got null"),
    ({"predictor": {"part": 3}}, r"^predictor\.part: expected a component with _target_"),
    ({"predictor": {"part": {"depth": 3}}}, r"^predictor\.part\._target_: a value is required"),
    ({"logger": {"depth": 3}}, r"^logger\._target_: a value is required"),
    ({"free": "${nowhere}"}, r"^free: Interpolation key 'nowhere' not found"),
    ({"free": "${oc.env:NJSL_NO_SUCH_VARIABLE}"}, r"^free: .*NJSL_NO_SUCH_VARIABLE"),
    # Targets
    ({"logger": {"_target_": "os.system"}}, r"^logger\._target_: 'os\.system' is refused"),
    ({"logger": {"_target_": 3}}, r"^logger\._target_: 3 is refused"),
    ({"logger": {"_target_": "njsl"}}, r"^logger\._target_: 'njsl' is refused"),
    ({"logger": {"_target_": "njsl..x"}}, r"^logger\._target_: .*is refused"),
    ({"logger": {"_target_": f"{HERE}.run"}}, r"^logger\._target_: .*is refused: it is no class or function of njsl"),
    ({"logger": {"_target_": f"{HERE}.Foreign"}}, r"^logger\._target_: .*is refused: it is no class or function"),
    ({"logger": {"_target_": f"{HERE}.Prat"}}, r"^logger\._target_: .* has no 'Prat' \(did you mean 'Part'\?\)"),
    ({"logger": {"_target_": "njsl.core.nope.X"}}, r"^logger\._target_: cannot import njsl\.core\.nope"),
    ({"logger": {"_target_": f"{HERE}.Open", "x": 1}}, r"^logger\._target_: .*is refused: it takes .*kwargs"),
    # Parameters
    (
        {"predictor": part(dpeth=3)},
        r"^predictor\.part\.dpeth: unknown key \(did you mean 'depth'\?\); accepted: depth,",
    ),
    ({"predictor": {"part": {"_target_": f"{HERE}.Part"}}}, r"^predictor\.part\.depth: a value is required: an int"),
    ({"predictor": part(depth="???")}, r"^predictor\.part\.depth: a value is required: an int"),
    ({"cv": {"bare": {"_target_": f"{HERE}.Bare", "x": 1}}}, r"^cv\.bare\.x: unknown key; nothing is accepted"),
    ({"predictor": part(_partial_=True)}, r"^predictor\.part\._partial_: unknown key"),
    ({"predictor": part(output="x")}, r"^predictor\.part\.output: is set by the program"),
    ({"predictor": part(depth=True)}, r"^predictor\.part\.depth: expected an int, got True"),
    ({"predictor": part(depth=None)}, r"^predictor\.part\.depth: expected an int, got null"),
    ({"predictor": part(rate="fast")}, r"^predictor\.part\.rate: expected a number, got 'fast'"),
    (
        {"predictor": part(kind="tre")},
        r"^predictor\.part\.kind: 'tre' is not known \(did you mean 'tree'\?\); accepted",
    ),
    ({"predictor": part(name=3)}, r"^predictor\.part\.name: expected a string or null, got 3"),
    ({"predictor": part(flag=0)}, r"^predictor\.part\.flag: expected true or false"),
    ({"predictor": part(shape=[1])}, r"^predictor\.part\.shape: expected a list of 2: an int, a number"),
    ({"predictor": part(shape=[1, "x"])}, r"^predictor\.part\.shape\[1\]: expected a number"),
    ({"predictor": part(many=["x"])}, r"^predictor\.part\.many\[0\]: expected a number"),
    ({"predictor": part(many=0.5)}, r"^predictor\.part\.many: expected a list, each a number"),
    ({"predictor": part(weights={"a": "x"})}, r"^predictor\.part\.weights: expected named values or null"),
    ({"predictor": part(folder=3)}, r"^predictor\.part\.folder: expected a string"),
    # Grid axes
    ({"predictor": part(depth=[])}, r"^predictor\.part\.depth: an empty grid axis"),
    ({"predictor": part(depth=[3, "x"])}, r"^predictor\.part\.depth\[1\]: expected an int, got 'x'"),
    ({"cv": part(depth=[3, 4])}, r"^cv\.part\.depth: expected an int, got \[3, 4\]"),
    ({"logger": {"_target_": f"{HERE}.Part", "depth": [3]}}, r"^logger\.depth: expected an int"),
    # Components within a component
    (
        {"predictor": nest({"_target_": "os.system", "command": "true"})},
        r"^predictor\.nest\.members\.a\.predictor\._target_: 'os\.system' is refused",
    ),
    (
        {"predictor": nest({"_target_": f"{HERE}.run", "args": "true"})},
        r"^predictor\.nest\.members\.a\.predictor\._target_: .*is refused: it is no class or function of njsl",
    ),
    (
        {
            "predictor": nest(
                {"_target_": f"{HERE}.Nest", "members": {"b": {**nest()["nest"]["members"]["a"], "names": 3}}}
            )
        },
        r"^predictor\.nest\.members\.a\.predictor\.members\.b\.names: expected a list, each a string, got 3",
    ),
    (
        {"predictor": nest(nest({"_target_": "os.system"})["nest"])},
        r"^predictor\.nest\.members\.a\.predictor\.members\.a\.predictor\._target_: 'os\.system' is refused",
    ),
    (
        {"predictor": nest(_target_="os.system")},
        r"^predictor\.nest\.members\.a\._target_: unknown key; accepted: names, predictor, rate",
    ),
    ({"predictor": nest({"depth": 3})}, r"^predictor\.nest\.members\.a\.predictor\._target_: a value is required"),
    ({"predictor": nest("os.system")}, r"^predictor\.nest\.members\.a\.predictor: expected a component with _target_"),
    ({"predictor": nest("null")}, r"^predictor\.nest\.members\.a\.predictor: expected a component .*got null"),
    ({"predictor": nest([inside()])}, r"^predictor\.nest\.members\.a\.predictor: expected a component"),
    ({"predictor": nest(None)}, r"^predictor\.nest\.members\.a\.predictor: a value is required"),
    ({"predictor": nest("???")}, r"^predictor\.nest\.members\.a\.predictor: a value is required"),
    ({"predictor": nest(names=None)}, r"^predictor\.nest\.members\.a\.names: a value is required"),
    (
        {"predictor": nest(nmes=["x"])},
        r"^predictor\.nest\.members\.a\.nmes: unknown key \(did you mean 'names'\?\); accepted: names, predictor, rate",
    ),
    ({"predictor": nest(names="x")}, r"^predictor\.nest\.members\.a\.names: expected a list, each a string, got 'x'"),
    ({"predictor": nest(names=["x", 3])}, r"^predictor\.nest\.members\.a\.names\[1\]: expected a string, got 3"),
    ({"predictor": nest(names="null")}, r"^predictor\.nest\.members\.a\.names: expected a list, .*got null"),
    ({"predictor": nest(rate="fast")}, r"^predictor\.nest\.members\.a\.rate: expected a number, got 'fast'"),
    (
        {"predictor": nest(rate=[0.1, 0.2])},
        r"^predictor\.nest\.members\.a\.rate: expected a number, got \[0\.1, 0\.2\]",
    ),
    (
        {"predictor": nest(inside(dpeth=3))},
        r"^predictor\.nest\.members\.a\.predictor\.dpeth: unknown key \(did you mean 'depth'\?\)",
    ),
    (
        {"predictor": nest(inside(depth="x"))},
        r"^predictor\.nest\.members\.a\.predictor\.depth: expected an int, got 'x'",
    ),
    (
        {"predictor": nest(inside(depth=[3, "x"]))},
        r"^predictor\.nest\.members\.a\.predictor\.depth\[1\]: expected an int, got 'x'",
    ),
    (
        {"predictor": nest(inside(output="x"))},
        r"^predictor\.nest\.members\.a\.predictor\.output: is set by the program",
    ),
    ({"cv": nest(inside(depth=[3, 4]))}, r"^cv\.nest\.members\.a\.predictor\.depth: expected an int, got \[3, 4\]"),
    ({"predictor": members({})}, r"^predictor\.nest\.members: at least one is required"),
    ({"predictor": members(None)}, r"^predictor\.nest\.members: expected named parts, got null"),
    ({"predictor": members([3])}, r"^predictor\.nest\.members: expected named parts, got \[3\]"),
    ({"predictor": members("???")}, r"^predictor\.nest\.members: a value is required"),
    ({"predictor": members({"a": None})}, r"^predictor\.nest\.members\.a: expected named values, got null"),
    ({"predictor": members({"a": [inside()]})}, r"^predictor\.nest\.members\.a: expected named values, got \["),
    ({"predictor": {"nest": {"_target_": f"{HERE}.Nest"}}}, r"^predictor\.nest\.members: a value is required"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS, ids=[str(changes)[:60] for changes, _ in FAULTS])
def test_a_fault_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check(untyped(good(**changes)), Schema)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"predictor": part(depth=[3, 4], rate=[1, 0.5], kind=["tree", "line"], name=["a", None], flag=[True])},
        {"predictor": part(rate=1, shape=[1, 2], many=[1, 0.5], weights={"a": 1}, folder="x", name=None)},
        {"cv": part(many=[])},
        {"free": [1, "x"]},
        {"inner": {"share": 1}},
        {"maybe": None},
        {"predictor": nest(inside(depth=[3, 4], rate=0.5), rate=1)},
        {"predictor": nest(nest(inside(depth=[3, 4]))["nest"])},
        {"cv": nest(names=[])},
    ],
)
def test_what_is_accepted(changes: dict[str, Any]) -> None:
    check(untyped(good(**changes)), Schema)


def test_no_advice_that_would_be_refused() -> None:
    """Only a config group can be given as a list of names."""
    with pytest.raises(ConfigError) as caught:
        check(untyped(good(predictor=members({}))), Schema)
    assert "=[NAME]" not in str(caught.value) and "--help" not in str(caught.value)


STACK = r"^predictor\.stack\.members"
NESTED = [
    (
        "predictor.stack.members.forest_all.predictor._target_=os.system",
        rf"{STACK}\.forest_all\.predictor\._target_: 'os\.system' is refused",
    ),
    (
        "+predictor.stack.members.x={features:[scale],predictor:{_target_:subprocess.run,args:x}}",
        rf"{STACK}\.x\.predictor\._target_: 'subprocess\.run' is refused",
    ),
    (
        "+predictor.stack.members.forest_all.predictor.max_feature=0.5",
        rf"{STACK}\.forest_all\.predictor\.max_feature: unknown key \(did you mean 'max_features'\?\)",
    ),
    ("+predictor.stack.members.forest_all.feature=[x]", rf"{STACK}\.forest_all\.feature: unknown key \(did you mean"),
    ("predictor.stack.members.forest_all.features=scale", rf"{STACK}\.forest_all\.features: .*'scale'"),
    (
        "predictor.stack.members.forest_all.features=[scael]",
        rf"{STACK}\.forest_all\.features\[0\]: 'scael' is not known",
    ),
    (
        "+predictor.stack.members.process_all.predictor.freedom=many",
        rf"{STACK}\.process_all\.predictor\.freedom: expected a number or null, got 'many'",
    ),
    ("+predictor.stack.members.x={features:[scale]}", rf"{STACK}\.x\.predictor: a value is required"),
    ("+predictor.stack.members.x={predictor:null,features:[scale]}", rf"{STACK}\.x\.predictor: expected a component"),
    ("~predictor.stack.members.forest_all.features", rf"{STACK}\.forest_all\.features: a value is required"),
    ("predictor.stack.members=null", rf"{STACK}: expected named parts, got null"),
]


@pytest.mark.parametrize(("override", "message"), NESTED, ids=[override for override, _ in NESTED])
def test_overrides_of_a_member_of_the_real_stack(override: str, message: str) -> None:
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("predict", overrides=["predictor=stack", "paths.output=x", override])
    with pytest.raises(ConfigError, match=message) as caught:
        check(cfg, config.PredictConfig)
    assert "\n" not in str(caught.value)


def test_a_member_of_the_real_stack_may_have_a_grid() -> None:
    config.register()
    override = "+predictor.stack.members.forest_all.predictor.min_samples_leaf=[2,5]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check(compose("predict", overrides=["predictor=stack", "paths.output=x", override]), config.PredictConfig)


def test_build() -> None:
    node = OmegaConf.create({"_target_": f"{HERE}.Part", "depth": "${..n}", "many": [1, 2]})
    made = build(OmegaConf.create({"n": 3, "part": node}).part, output=Path("x"))
    assert (made.depth, made.many, made.output) == (3, [1, 2], Path("x"))
    assert build({"_target_": f"{HERE}.Part", "depth": 1}, depth=2).depth == 2
    with pytest.raises(ConfigError, match="_target_"):
        build({"depth": 1})
    with pytest.raises(ConfigError, match="refused"):
        build({"_target_": "os.getcwd"})


OVERRIDES = [
    ("+sead=3", r"^sead: unknown key"),
    ("+store.pth=x", r"^store\.pth: unknown key \(did you mean 'path'\?\); accepted: name, path, view"),
    ("+selection.step=3", r"^selection\.step: unknown key"),
    ("+features.scale.column=[x]", r"^features\.scale\.column: unknown key \(did you mean 'columns'\?\)"),
    ("store.view=rwa", r"^store\.view: 'rwa' is not known .*accepted: raw, curated"),
    ("mode=fot", r"^mode: 'fot' is not known .*accepted: fit"),
    ("store=paper ~features.scale ~features.all ~features.selected", r"^features: at least one is required"),
    ("seeds=[]", r"^seeds: at least one seed"),
    ("logger.mode=onlin", r"^logger\.mode: 'onlin' is not known .*accepted: online, offline, disabled"),
    ("+logger.api_key=x", r"^logger\.api_key: unknown key"),
    ("+logger.output=x", r"^logger\.output: is set by the program"),
    ("logger._target_=wandb.init", r"^logger\._target_: 'wandb.init' is refused"),
    ("~logger", r"^logger: a value is required"),
]


@pytest.mark.parametrize(("override", "message"), OVERRIDES, ids=[override for override, _ in OVERRIDES])
def test_overrides_of_the_real_config(override: str, message: str) -> None:
    config.register()
    bare = {"bare": {"_target_": f"{HERE}.Bare"}}
    start = ["predictor=[]", "cv=[]", "paths.output=x"]
    first = [] if override == "~logger" else ["logger=wandb"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("predict", overrides=[*start, *first, *override.split()])
    OmegaConf.set_struct(cfg, False)
    cfg.predictor, cfg.cv = bare, bare
    with pytest.raises(ConfigError, match=message):
        check(cfg, config.PredictConfig)


def test_a_typo_in_an_experiment(tmp_path: Path) -> None:
    config.register()
    (tmp_path / "typo.yaml").write_text(
        "defaults: [predict_schema, _self_]\nstore: {name: paper}\nlogger: null\nselection: {max_step: 3}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"), pytest.raises(Exception, match="max_step"):
        check(compose("typo"), config.PredictConfig)
