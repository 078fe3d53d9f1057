"""The shipped SROS 2 policy allows what the node has on the graph, and nothing that it has not."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.ros

POLICY = Path(__file__).resolve().parents[3] / "config" / "sros2_policy.xml"
# Only with other parameters, in simulated time, or beside Nav2.
OPTIONAL = {
    "/camera/image/compressed",
    "/camera/depth",
    "/clock",
    "/parameter_events",
    "/gld/merged/points",
    "/gld/get_type_description",
    "/bond",
    "/gld/observed/relative_depth/image",
    "/gld/observed/relative_depth/camera_info",
}


def allowed(kind, right):
    profile = ElementTree.parse(POLICY).getroot().find(".//profile[@node='gld']")
    [group] = [g for g in profile.findall(kind) if g.get(right) == "ALLOW"]
    return {f"/{entry.text}" for entry in group}


def test_policy_is_what_the_node_uses(make_rig, plain_oracle, ros_graph):
    rig = make_rig(plain_oracle)
    rig.activate()
    peer = rig.peer

    def names(listing):
        return {
            name
            for name, _ in getattr(peer, f"get_{listing}_names_and_types_by_node")("gld", "/")
            if "/_action/" not in name
        }

    ros_graph.wait_for(
        lambda: len(names("publisher")) > 15, "publishers are discovered", timeout_s=60.0
    )
    ros_graph.wait_for(
        lambda: "/gld/save_scene" in names("service"), "services are discovered", timeout_s=60.0
    )
    for listing, kind, right in (
        ("subscriber", "topics", "subscribe"),
        ("publisher", "topics", "publish"),
        ("service", "services", "reply"),
    ):
        policy = allowed(kind, right)
        assert names(listing) <= policy, f"{listing}: not allowed by the policy"
        assert policy - names(listing) <= OPTIONAL, f"{listing}: allowed, but not there"
    assert allowed("actions", "execute") == {"/gld/synthesize_views"}
