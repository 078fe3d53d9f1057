"""The parameter table: rows are consistent, generated files are current, bad values are refused."""

from pathlib import Path

import pytest
import yaml

from gld_ros.ros.parameters.documents import as_markdown, as_yaml
from gld_ros.ros.parameters.snapshot import make_snapshot
from gld_ros.ros.parameters.table import BY_NAME, TABLE
from gld_ros.ros.parameters.validation import problem_with, problem_with_set

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {parameter.name: parameter.default for parameter in TABLE}


@pytest.mark.parametrize("parameter", TABLE, ids=lambda p: p.name)
def test_defaults_satisfy_their_own_row(parameter):
    assert problem_with(parameter, parameter.default) == ""
    assert parameter.description.endswith(".")


def test_defaults_fit_together_and_make_a_snapshot():
    assert problem_with_set(DEFAULTS) == ""
    assert make_snapshot(DEFAULTS).session.guard.max_translation_m == 1.5


def test_yaml_and_docs_in_the_repository_are_those_of_the_table():
    assert (ROOT / "config" / "gld.yaml").read_text() == as_yaml()
    assert (ROOT / "docs" / "parameters.md").read_text() == as_markdown()


def test_yaml_gives_every_default_with_its_type():
    values = yaml.safe_load(as_yaml())["/**"]["ros__parameters"]
    for parameter in TABLE:
        assert values[parameter.name] == parameter.default
        assert type(values[parameter.name]) is type(parameter.default)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("tf.timeout", 11.0, "0 to 10 s"),
        ("tf.timeout", float("nan"), "finite"),
        ("tf.timeout", 1, "type double"),
        ("policy.type", "wander", "look_around"),
        ("camera_names", [], "at least 1"),
        ("camera_names", ["a", "a"], "differ"),
        ("policy.yaw_offsets", [0.1] * 5, "at most 4"),
        ("view_tf.publish", 1, "type bool"),
    ],
)
def test_bad_value_is_refused_with_what_was_given_and_what_is_allowed(name, value, says):
    problem = problem_with(BY_NAME[name], value)
    assert name in problem
    assert says in problem


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depth.min": 5.0, "depth.max": 2.0}, "depth.min"),
        ({"keyframes.min_interval": 9.0}, "keyframes.max_interval"),
        ({"sampler.guidance_scale": 0.5}, "sampler.guidance_scale"),
        ({"fixed_frame": ""}, "fixed_frame"),
    ],
)
def test_values_that_contradict_each_other_are_refused_as_a_set(changes, says):
    assert says in problem_with_set(DEFAULTS | changes)
