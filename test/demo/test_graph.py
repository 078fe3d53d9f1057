import pytest

pytestmark = pytest.mark.ros


@pytest.fixture
def demo_graph(own_domain):
    from gld_ros.demo.graph import DemoGraph

    graph = DemoGraph()
    yield graph
    graph.close()


def test_a_node_of_the_same_name_is_refused_by_domain(ros_graph, demo_graph, monkeypatch):
    from lifecycle_msgs.srv import ChangeState

    from gld_ros.demo.graph import DemoFailed

    node = ros_graph.node("gld")
    node.create_service(ChangeState, "~/change_state", lambda request, response: response)
    monkeypatch.setenv("ROS_DOMAIN_ID", "41")  # only what the message says; the graph is joined
    with pytest.raises(DemoFailed, match=r"ROS domain 41 already.*ROS_DOMAIN_ID"):
        demo_graph.require_unique_node_name(discovery_s=60.0)  # ends at the discovery


def test_an_empty_domain_is_taken(demo_graph):
    demo_graph.require_unique_node_name()
