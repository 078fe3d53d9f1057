"""Launch files, parameter files and snippets that the package ships."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from gld_ros.bags.cameras import camera_info_topic, depth_companion, is_depth_topic
from gld_ros.mapping.product_messages import TOPICS
from gld_ros.mapping.provenance import Provenance
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.ros.parameters.table import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("profile_*.yaml")), ids=lambda p: p.name
)
def test_profile_loads_and_changes_something(path):
    assert load_snapshot(path).values != load_snapshot().values


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("profile_*.yaml")), ids=lambda p: p.name
)
def test_profile_shows_something_without_being_asked(path):
    assert load_snapshot(path).values["policy.type"] == "look_around"


@pytest.mark.parametrize(
    "name", ["gld.launch.py", "gld_bag.launch.py", "mapping/nav2_layers.launch.py"]
)
def test_no_launch_default_decides_where_and_how_exactly_a_model_runs(name):
    """A machine with a GPU uses it, and other weights than `tiny` get all their steps."""
    text = (ROOT / "launch" / name).read_text()
    files = set(re.findall(r'"(\w+\.yaml)"', text)) & {p.name for p in (ROOT / "config").iterdir()}
    loaded = [
        load_snapshot(ROOT / "config" / f)
        for f in files
        if not f.startswith("nav2_costmap") and f != "nav2_voxel.yaml"
    ]
    assert loaded
    for snapshot in loaded:
        for parameter in ("device", "model.precision", "sampler.num_steps", "sampler.preset"):
            assert snapshot.values[parameter] == BY_NAME[parameter].default


def test_rviz_shows_topics_that_exist():
    displays = yaml.safe_load((ROOT / "rviz" / "gld.rviz").read_text())["Visualization Manager"]
    topics = {d["Topic"]["Value"] for d in displays["Displays"] if "Topic" in d}
    own = {topic.removeprefix("/gld/") for topic in topics if topic.startswith("/gld/")}
    assert own
    assert own <= set(TOPICS)
    assert topics - {f"/gld/{topic}" for topic in own} == {"/camera/image"}


def test_rviz_has_a_display_for_every_image_and_every_cloud():
    displays = yaml.safe_load((ROOT / "rviz" / "gld.rviz").read_text())["Visualization Manager"]
    shown = {
        (d["Class"].rpartition("/")[2], d["Topic"]["Value"].removeprefix("/gld/"))
        for d in displays["Displays"]
        if "Topic" in d
    }
    kinds = {"sensor_msgs/msg/Image": "Image", "sensor_msgs/msg/PointCloud2": "PointCloud2"}
    wanted = {(kinds[kind], topic) for topic, (kind, _) in TOPICS.items() if kind in kinds}
    assert wanted <= shown
    # The only depth of a plain camera in mode depth, which needs no click.
    enabled = {d["Topic"]["Value"] for d in displays["Displays"] if "Topic" in d and d["Enabled"]}
    assert "/gld/observed/relative_depth/image" in enabled


def test_foxglove_shows_every_product_and_nothing_else():
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    topics = set(re.findall(r'"/gld/([a-z_/]+)"', json.dumps(layout)))
    # The same pixels as the raw image.
    assert topics == set(TOPICS) - {"predicted/color/image/compressed"}


def test_every_panel_of_the_foxglove_layout_is_placed_once():
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    placed = list(panels_of(layout["layout"]))
    for tab in (panel for panel in list(placed) if panel.startswith("Tab!")):
        for page in layout["configById"][tab]["tabs"]:
            placed += panels_of(page["layout"])
    assert sorted(placed) == sorted(layout["configById"])


def test_foxglove_panels_of_numbers_state_their_range():
    largest = {"depth": 10, "relative_depth": 3, "confidence": 1, "provenance": 5}
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    images = [c["imageMode"] for name, c in layout["configById"].items() if "Image!" in name]
    topics = {image["imageTopic"].split("/")[-2]: image for image in images}
    assert topics.keys() == {"color", *largest}
    for name, value in largest.items():  # without it 1 m is white, and all beyond
        shown = [topics[name][key] for key in ("colorMode", "minValue", "maxValue")]
        assert shown == ["colormap", 0, value]


def panels_of(place):
    """The panels of a layout: a name, or two halves."""
    if isinstance(place, str):
        yield place
    else:
        yield from panels_of(place["first"])
        yield from panels_of(place["second"])


def test_planner_snippet_loads():
    snapshot = load_snapshot(ROOT / "config" / "nav2_planner.yaml")
    assert len(snapshot.session.products.predicted_provenance) == 2
    assert snapshot.session.products.observed_provenance == {Provenance.MEASURED}


@pytest.mark.parametrize("name", ["mapper.launch.py", "nav2_layers.launch.py"])
def test_receivers_that_clear_are_given_measured_depth_alone(name):
    tree = ast.parse((ROOT / "launch" / "mapping" / name).read_text())
    declared = {
        call.args[0].value: {word.arg: word.value for word in call.keywords}
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "DeclareLaunchArgument"
    }
    assert declared["observed"]["default_value"].value == "measured"
    assert launch_table(ROOT / "launch" / "gld.launch.py", "OBSERVED")["measured"] == ["measured"]


def test_doubles_keep_their_decimal_point():
    for path in (ROOT / "config").glob("*.yaml"):
        for section in yaml.safe_load(path.read_text()).values():
            for name, value in (section.get("ros__parameters") or {}).items():
                if name in BY_NAME and BY_NAME[name].type == "double":
                    assert isinstance(value, float), f"{path.name}: {name}"


def every_source(document):
    """Every mapping below a document that has a topic."""
    if isinstance(document, dict):
        if "topic" in document:
            yield document
        for value in document.values():
            yield from every_source(value)


@pytest.mark.parametrize("name", ["nav2_costmap.yaml", "nav2_voxel.yaml"])
def test_nav2_may_mark_but_never_clear_with_predicted_points(name):
    sources = list(every_source(yaml.safe_load((ROOT / "config" / name).read_text())))
    predicted = [source for source in sources if "/predicted/" in source["topic"]]
    assert predicted
    for source in predicted:
        assert source["marking"] is True
        assert source["clearing"] is False
        assert source["expected_update_rate"] == 0.0


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config" / "mapping").glob("*.yaml")), ids=lambda p: p.name
)
def test_mappers_that_clear_are_told_not_to_take_predictions(path):
    assert yaml.safe_load(path.read_text())
    recipe = (ROOT / "docs" / "mapping_recipes.md").read_text()
    command = next(
        b for b in recipe.split("```") if f"mapping/{path.name}" in b and "ros2 run" in b
    )
    assert "/gld/observed/" in command
    assert "/gld/predicted/" not in command
    assert {f"/gld/{topic}" for topic in TOPICS} >= set(re.findall(r":=(/gld/[a-z_/]+)", command))


def launch_table(path, name):
    """A table of a launch file, read without ROS."""
    return next(
        ast.literal_eval(ast.unparse(_without_calls(node.value)))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == name
    )


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda p: p.name)
def test_launch_file_explains_every_argument_once(path):
    declared = launch_table(path, "ARGUMENTS")
    names = [name for name, _, _ in declared]
    assert len(names) == len(set(names))
    assert all(meaning.endswith(".") for _, _, meaning in declared)


def test_launch_arguments_set_parameters_that_exist():
    path = ROOT / "launch" / "gld.launch.py"
    parameters = launch_table(path, "PARAMETERS")
    assert set(parameters) <= {name for name, _, _ in launch_table(path, "ARGUMENTS")}
    assert set(parameters.values()) <= set(BY_NAME)


@pytest.mark.parametrize("name", ["gld.launch.py", "gld_bag.launch.py"])
def test_launch_files_offer_the_modes_of_the_parameter_and_the_files_own(name):
    choices = launch_table(ROOT / "launch" / name, "CHOICES")
    assert choices["mode"] == ("", *BY_NAME["mode"].choices)


def test_mappers_are_given_observed_products_that_the_node_publishes():
    mappers = launch_table(ROOT / "launch/mapping/mapper.launch.py", "MAPPERS")
    assert set(mappers) == {"octomap", "nvblox", "rtabmap"}
    for mapper in mappers.values():
        assert (ROOT / "config/mapping" / mapper["config"]).is_file()
        assert set(mapper["products"].values()) <= set(TOPICS)
        assert all(topic.startswith("observed/") for topic in mapper["products"].values())


@pytest.mark.parametrize("name", ["nav2_costmap.yaml", "nav2_voxel.yaml"])
def test_costmap_layers_name_topics_that_the_node_publishes(name):
    sources = every_source(yaml.safe_load((ROOT / "config" / name).read_text()))
    assert {source["topic"].removeprefix("/gld/") for source in sources} <= set(TOPICS)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "launch" / "mapping").glob("*.launch.py")), ids=lambda p: p.name
)
def test_every_mapping_launch_file_is_in_the_recipes(path):
    assert path.name in (ROOT / "docs" / "mapping_recipes.md").read_text()


def test_camera_presets_are_cameras_with_the_depth_that_is_registered_to_them():
    presets = launch_table(ROOT / "launch" / "gld.launch.py", "PRESETS")
    assert set(presets) == {"realsense", "zed", "oak", "azure_kinect", "usb"}
    for topics in presets.values():
        image, depth = topics["image"], topics.get("depth")
        assert topics["camera_info"] == camera_info_topic(image)
        assert not is_depth_topic(image)
        assert depth == depth_companion(image, [t for t in (image, depth) if t])


def _without_calls(node):
    """Replace computed defaults by a text, so that the table can be read without ROS."""

    class Plain(ast.NodeTransformer):
        def visit_Call(self, call):
            return ast.Constant("computed")

    return Plain().visit(node)


def test_bag_launch_passes_only_arguments_that_the_node_launch_has():
    node_launch = (ROOT / "launch" / "gld.launch.py").read_text()
    bag_launch = ast.parse((ROOT / "launch" / "gld_bag.launch.py").read_text())
    passed = next(
        [key.value for key in node.func.value.keys]
        for node in ast.walk(bag_launch)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "items"
    )
    assert all(f'"{name}"' in node_launch for name in passed)


def test_every_topic_of_the_node_is_documented():
    text = (ROOT / "docs" / "node.md").read_text()
    names = [f"~/{topic}" for topic in TOPICS] + ["target_poses", "path", "map"]
    assert [name for name in names if f"`{name}`" not in text] == []
