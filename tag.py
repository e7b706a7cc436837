"""Measure corpora and model generations: `python tag.py --help`."""

import hydra
from omegaconf import DictConfig

from njsl.core import config
from njsl.core.entry import one_line_errors, verb

config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="tag")
def main(cfg: DictConfig) -> None:
    verb("tag", cfg)


if __name__ == "__main__":
    one_line_errors(main)
