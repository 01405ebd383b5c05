"""The packages of the wheel; everything else is in pyproject.toml.

The configs lie in the repository's ``conf`` and become ``lmf/conf`` in the wheel, which pyproject.toml cannot say
together with automatic discovery.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["lmf*"]), "lmf.conf", "hydra_plugins.lmf"], package_dir={"lmf.conf": "conf"})
