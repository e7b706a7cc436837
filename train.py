"""Pretrain a language model on a data mix: `python train.py --help`."""

import hydra
from omegaconf import DictConfig

from njsl.core import config
from njsl.core.entry import one_line_errors, verb
from njsl.train import population

config.register()
population.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    verb("train", cfg)


if __name__ == "__main__":
    one_line_errors(main)
