"""Every yaml of every config group composes into its verb, names a target that imports, and passes the check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from njsl.core import config
from njsl.core.check import check
from njsl.train import population

CONF = Path(__file__).parents[1] / "conf"
Compose = Callable[..., DictConfig]
VERBS = sorted(path.stem for path in CONF.glob("*.yaml"))
# Machine paths of one user, not part of the project; and launchers, which are Hydra's own group.
NOT_OURS = ("local", "hydra/launcher")


def options() -> list[tuple[str, str]]:
    """Group and option of every yaml below a folder of conf."""
    files = (path.relative_to(CONF) for path in CONF.glob("*/**/*.yaml"))
    return sorted((file.parent.as_posix(), file.stem) for file in files if file.parent.as_posix() not in NOT_OURS)


def groups(verb: str) -> dict[str, str | list[str] | None]:
    """The verb's map: its groups and what each has by default."""
    entries = yaml.safe_load((CONF / f"{verb}.yaml").read_text())["defaults"]
    return {group: choice for entry in entries if isinstance(entry, dict) for group, choice in entry.items()}


def users(group: str, option: str) -> list[str]:
    """The verbs an option is for; one that sets values of the root must find them all there."""
    text = (CONF / group / f"{option}.yaml").read_text()
    verbs = [verb for verb in VERBS if group in groups(verb)]
    if not text.startswith("# @package _global_"):
        return verbs
    node = yaml.safe_load(text)
    entries = node.pop("defaults", [])
    wanted = {key.removeprefix("override /") for entry in entries if isinstance(entry, dict) for key in entry}
    wanted |= node.keys() - {"hydra"}
    for base in (entry for entry in entries if isinstance(entry, str) and entry != "_self_"):
        verbs = [verb for verb in verbs if verb in users(group, base)]
    return [verb for verb in verbs if wanted <= {field.name for field in dataclasses.fields(config.SCHEMAS[verb])}]


@pytest.fixture
def compose_verb(tmp_path: Path) -> Iterator[Compose]:
    """Composes a verb as its entry file does, with an output folder in place of Hydra's."""
    config.register()
    population.register()

    def composed(verb: str, *overrides: str) -> DictConfig:
        words = [f"hydra.runtime.output_dir={tmp_path}", *overrides]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(verb, overrides=words, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    yield composed
    HydraConfig.instance().cfg = None


def fill(cfg: DictConfig) -> None:
    """Give what a user must give; fields named in the plural are lists."""
    for path in OmegaConf.missing_keys(cfg):
        given = "given by the user"
        OmegaConf.update(cfg, path, [given] if path.endswith("s") else given)


def test_every_verb_has_a_schema_and_a_yaml() -> None:
    assert sorted(config.SCHEMAS) == VERBS


def test_every_group_is_on_a_map() -> None:
    on_maps = {group for verb in VERBS for group in groups(verb)}
    assert {group for group, _ in options()} <= on_maps


@pytest.mark.parametrize("verb", VERBS)
def test_the_verb_itself(verb: str, compose_verb: Compose, tmp_path: Path) -> None:
    cfg = compose_verb(verb)
    check(cfg, config.SCHEMAS[verb])
    assert cfg.paths.output == str(tmp_path)


@pytest.mark.parametrize(("group", "option"), options(), ids="=".join)
def test_option(group: str, option: str, compose_verb: Compose) -> None:
    assert users(group, option)
    for verb in users(group, option):
        cfg = compose_verb(verb, f"{group}={option}")
        fill(cfg)
        check(cfg, config.SCHEMAS[verb])
        if isinstance(groups(verb)[group], list):
            # One named part per file, so that parts can be chosen together and overridden by name.
            assert list(OmegaConf.select(cfg, group.replace("/", "."))) == [option]


@pytest.mark.parametrize("option", [option for group, option in options() if group == "predictor"])
def test_a_predictor_is_named_as_its_file(option: str) -> None:
    node = yaml.safe_load((CONF / "predictor" / f"{option}.yaml").read_text())
    assert node[option]["_target_"].startswith(f"njsl.predict.predictors.{option}.")


@pytest.mark.parametrize("verb", VERBS)
def test_several_parts_together(verb: str, compose_verb: Compose) -> None:
    several = {group: choice for group, choice in groups(verb).items() if isinstance(choice, list)}
    names = {group: [option for other, option in options() if other == group.partition("@")[0]] for group in several}
    cfg = compose_verb(verb, *(f"{group}=[{','.join(names[group])}]" for group in several))
    fill(cfg)
    check(cfg, config.SCHEMAS[verb])
    for group, wanted in names.items():
        assert list(OmegaConf.select(cfg, group.rpartition("@")[2])) == wanted
