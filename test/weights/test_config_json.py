"""Configs survive JSON, and whatever is not a config is refused by name."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Literal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gld_ros.weights.config_json import config_from_json, config_to_json
from gld_ros.weights.errors import BundleError


@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...]
    pair: tuple[int, int] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    factor: float
    inner: Inner
    maybe: int | None
    kind: Literal["a", "b"]
    parts: Mapping[str, Inner]
    flag: bool = False


EXAMPLE = Outer("x", 2.0, Inner((1, 2, 3)), None, "b", {"p": Inner((), (3, 4))}, True)


def test_a_config_survives_json():
    text = json.dumps(config_to_json(EXAMPLE))
    assert config_from_json(Outer, json.loads(text), "c") == EXAMPLE


def test_whole_numbers_become_floats_but_booleans_stay_out():
    data = config_to_json(EXAMPLE)
    assert config_from_json(Outer, data | {"factor": 3}, "c").factor == 3.0
    with pytest.raises(BundleError, match=r"c\.factor must be of type float, got True"):
        config_from_json(Outer, data | {"factor": True}, "c")
    with pytest.raises(BundleError, match=r"c\.maybe must be of type int, got True"):
        config_from_json(Outer, data | {"maybe": True}, "c")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inner": {"sizes": [1, "2"]}}, r"c\.inner\.sizes\[1\] must be of type int"),
        ({"inner": {"sizes": [1], "pair": [1]}}, r"c\.inner\.pair must have 2 entries"),
        ({"inner": {"sizes": 5}}, r"c\.inner\.sizes must be a list"),
        ({"inner": []}, r"c\.inner must be a JSON object"),
        ({"kind": "c"}, r"c\.kind must be one of 'a', 'b'"),
        ({"parts": {"p": {}}}, r"c\.parts\.p lacks field\(s\) 'sizes'"),
    ],
)
def test_wrong_values_are_named_with_their_place(change, words):
    with pytest.raises(BundleError, match=words):
        config_from_json(Outer, config_to_json(EXAMPLE) | change, "c")


json_values = st.recursive(
    # Few letters: hypothesis builds its table of all of Unicode for seconds.
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab1 é\0", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "sizes", "pair", "p", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Outer)]), json_values))
def test_anything_else_is_refused_and_nothing_crashes(change):
    data = config_to_json(EXAMPLE) | change
    try:
        parsed = config_from_json(Outer, data, "c")
    except BundleError:
        return
    assert isinstance(parsed, Outer)
