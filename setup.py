"""Package metadata, read from settings.ini."""

import shlex
from configparser import ConfigParser

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extras = {
    name: shlex.split(cfg[f"{name}_requirements"])
    for name in ("train", "data", "evaluation", "pipeline", "dev", "hub", "blender")
}
# each part needs the parts that it builds on
extras["data"] += extras["train"]
extras["evaluation"] += extras["train"]
extras["pipeline"] += extras["data"] + extras["evaluation"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=["sie", "sie.*"]),
    package_data={"sie": ["py.typed", "pretrained/*/*", "static/*"]},
    install_requires=shlex.split(cfg["requirements"]),
    extras_require=extras,
    entry_points={
        "console_scripts": ["sie = sie.pipeline.command:main"],
        "nbdev": [f"{cfg['lib_path']} = {cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
