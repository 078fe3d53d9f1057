"""The rules of docs/architecture.md: who imports whom, and an index that is current."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A module may import its own layer's folder and every lower layer.
LAYERS = (
    ("depth_colours", "full_precision", "partial_folder", "plain_yaml"),
    ("geometry",),
    ("messages", "backbones", "measuring"),
    ("bags", "decoders", "diffusion"),
    ("weights", "scenes"),
    (
        "view_request",
        "measured_latents",
        "novel_view_stages",
        "memory_estimate",
        "remembered_estimates",
        "pipeline_plan",
        "pipeline_results",
        "pipeline",
        "pipeline_device",
        "pretrained",
        "depth_pipeline",
        "selftest",
    ),
    ("training", "mapping", "batch", "export"),
    ("evaluation", "photos", "ros"),
    ("demo", "recipes"),
    ("cli",),
)
# Modules of one layer that may use each other: the parts that one front door is split into.
TOGETHER = {LAYERS[5]}
INTERFACES = {"msg", "srv", "action", "interface_files"}
ROS_PACKAGES = {"rclpy", "tf2_ros", "launch", "launch_ros", "rosidl_runtime_py", "cv_bridge"}
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(module: Path):
    """Every module name that a file imports, lazily or not."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules():
    return [
        path
        for path in sorted((ROOT / "gld_ros").rglob("*.py"))
        if path.relative_to(ROOT / "gld_ros").parts[0] != "__init__.py"
    ]


def subject(path: Path) -> str:
    return path.relative_to(ROOT / "gld_ros").parts[0].removesuffix(".py")


def test_every_folder_has_its_layer():
    assert {subject(path) for path in modules()} == set(LAYER)


def test_the_documented_layers_are_these():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (`.+`) \|$", page, re.MULTILINE)
    documented = [(int(level), set(re.findall(r"`(\w+)`", names))) for level, names in rows]
    assert documented == [(level, set(names)) for level, names in enumerate(LAYERS)]


def test_imports_go_one_way():
    wrong = []
    for path in modules():
        source = subject(path)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "gld_ros" or len(parts) < 2 or parts[1] in INTERFACES:
                continue
            target = parts[1]
            lower = LAYER[target] < LAYER[source]
            together = LAYERS[LAYER[source]] in TOGETHER and LAYER[target] == LAYER[source]
            if target != source and not lower and not together:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_library_knows_no_ros():
    free = [path for path in modules() if subject(path) not in ("ros", "demo", "cli")]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in free
        for name in imports(path)
        if name.split(".")[0] in ROS_PACKAGES or name.split(".")[:2] == ["gld_ros", "ros"]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(
    not (ROOT / "tools" / "module_index.py").is_file(), reason="the tools are not installed"
)
def test_the_module_index_is_current():
    spec = importlib.util.spec_from_file_location("module_index", ROOT / "tools/module_index.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == tool.page_with_index(page), "run: python tools/module_index.py --write"


def test_progress_bars_are_quiet_where_nobody_watches():
    bars, loud = 0, []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tqdm":
                bars += 1
                if not any(keyword.arg == "disable" for keyword in node.keywords):
                    loud.append(
                        f"{path.relative_to(ROOT)}:{node.lineno}: tqdm without disable=None"
                    )
    assert bars > 10
    assert not loud, "\n".join(loud)
