"""package.xml declares every ROS package that the package uses, and setup.py every other one."""

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Where the name to import is not the name to install.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "rerun": "rerun-sdk",
    "tf2_ros": "tf2_ros_py",
    "yaml": "PyYAML",
}
# Networks of losses: a run of the training that wants one says how to install it.
OPTIONAL = {"lpips", "efficientnet_lite_pytorch"}
MESSAGE_NAME = re.compile(r"([a-z][a-z0-9_]*)/(?:msg|srv|action)/[A-Z]\w*")


def sources():
    yield from (ROOT / "gld_ros").rglob("*.py")
    yield from (ROOT / "launch").rglob("*.py")
    yield from (path for path in (ROOT / "scripts").iterdir() if path.is_file())


def used_by(path):
    """Packages that a file imports, and those of messages that it names in strings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = MESSAGE_NAME.fullmatch(node.value)
            if named:
                yield named[1]


def declared_for_ros():
    root = ElementTree.parse(ROOT / "package.xml").getroot()
    return {element.text for tag in ("depend", "exec_depend") for element in root.iter(tag)}


def test_every_package_in_use_is_declared():
    python = {name.lower() for name in re.findall(r'"([\w-]+)>=', (ROOT / "setup.py").read_text())}
    declared = declared_for_ros() | python
    assert {"rclpy", "numpy"} <= declared
    missing = set()
    for path in sources():
        for name in set(used_by(path)) - {"gld_ros"} - OPTIONAL - sys.stdlib_module_names:
            if DISTRIBUTIONS.get(name, name).lower() not in declared:
                missing.add(f"{path.relative_to(ROOT)} uses {name}")
    assert not missing, "\n".join(sorted(missing))
