"""python run.py experiment=lmf_edsr"""

import hydra
from omegaconf import DictConfig

from lmf.app import pipeline


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    pipeline.run(config)


if __name__ == "__main__":
    with pipeline.explained():
        main()
