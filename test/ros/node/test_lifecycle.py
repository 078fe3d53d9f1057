"""Transitions: each twice, refused configurations, and nothing left behind."""

import gc
import threading

import pytest

pytestmark = pytest.mark.ros


def entities(node):
    """How many entities of each kind the node owns."""
    kinds = ("publishers", "subscriptions", "services", "clients", "timers", "waitables", "guards")
    counts = {kind: len(list(getattr(node, kind))) for kind in kinds}
    return counts | {"managed": len(node._managed_entities)}


def workers():
    return {t for t in threading.enumerate() if t.name.startswith("gld_synthesis")}


def test_every_transition_twice_leaves_nothing_behind(make_rig, plain_oracle):
    from rclpy.lifecycle import TransitionCallbackReturn as Result

    rig = make_rig(plain_oracle)
    node = rig.node
    gc.collect()
    # Another test may have left a hung worker, which ends when it likes.
    unconfigured, others = entities(node), workers()
    for _ in range(2):
        assert node.trigger_configure() == Result.SUCCESS
        inactive = entities(node)
        for _ in range(2):
            assert node.trigger_activate() == Result.SUCCESS
            assert len(workers() - others) == 1
            assert node.trigger_deactivate() == Result.SUCCESS
            assert not workers() - others
            assert entities(node) == inactive
        assert node.trigger_cleanup() == Result.SUCCESS
        assert entities(node) == unconfigured
    assert rig.released == 2
    assert node.trigger_configure() == Result.SUCCESS
    assert node.trigger_activate() == Result.SUCCESS
    assert node.trigger_shutdown() == Result.SUCCESS
    assert entities(node) == unconfigured
    assert not workers() - others


def test_node_works_again_after_deactivate_and_cleanup(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    rig.node.trigger_deactivate()
    assert len(rig.node.session.store) == 3  # kept for the next activate
    rig.node.trigger_cleanup()
    rig.activate()
    assert len(rig.node.session.store) == 0
    rig.drive((1.0, 1.2, 1.4))
    status, result = rig.finished_goal([rig.T_fixed_cam(1.3)])
    assert (status, result.error_code) == (4, 0)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"tf.timeout": 99.0}, "tf.timeout"),
        ({"policy.type": "wander"}, "policy.type"),
        ({"depth.min": 5.0, "depth.max": 2.0}, "depth.min"),
        ({"keyframes.min_translatoin": 0.1}, "unknown parameter(s) keyframes.min_translatoin"),
        ({"frame_id_override.rear": "x"}, "unknown parameter(s) frame_id_override.rear"),
    ],
)
def test_configure_fails_and_names_the_parameter(make_rig, plain_oracle, parameters, says):
    from rclpy.lifecycle import TransitionCallbackReturn as Result

    rig = make_rig(plain_oracle, parameters)
    rig.watch()
    for _ in range(2):
        assert rig.node.trigger_configure() == Result.FAILURE
        assert says in rig.node.problem
    assert rig.node.session is None
    rig.wait_level("gld: model", 2, says=says)


def test_configure_fails_without_the_bundle(make_rig, plain_oracle, tmp_path):
    from rclpy.lifecycle import TransitionCallbackReturn as Result

    from gld_ros.mapping.model import load_model

    missing = str(tmp_path / "no_such_bundle")
    rig = make_rig(plain_oracle, {"model.bundle": missing}, model_factory=load_model)
    before = entities(rig.node)
    assert rig.node.trigger_configure() == Result.FAILURE
    assert missing in rig.node.problem
    assert entities(rig.node) == before


def test_goals_while_inactive_are_answered(make_rig, plain_oracle):
    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    rig.node.trigger_deactivate()
    status, result = rig.finished_goal([rig.T_fixed_cam(0.3)])
    assert status == 6  # aborted
    assert result.error_code == result.NODE_INACTIVE


def test_what_is_set_while_inactive_takes_effect_at_activate(make_rig, plain_oracle):
    from rclpy.parameter import Parameter

    rig = make_rig(plain_oracle)
    rig.activate()
    rig.drive()
    refused = rig.node.set_parameters([Parameter("fixed_frame", value="map")])[0]
    assert not refused.successful
    assert "not active" in refused.reason
    rig.node.trigger_deactivate()
    assert rig.node.set_parameters([Parameter("image_transport", value="compressed")])[0].successful
    rig.activate()
    assert rig.node.session.cameras["camera"].compressed
    rig.drive((1.0,))


def test_release_on_deactivate_frees_the_weights(make_rig, plain_oracle):
    rig = make_rig(plain_oracle, {"release_on_deactivate": True})
    rig.activate()
    rig.node.trigger_deactivate()
    assert rig.released == 1


def test_activate_fails_when_a_changed_model_cannot_be_had(make_rig, plain_oracle):
    from rclpy.lifecycle import TransitionCallbackReturn as Result
    from rclpy.parameter import Parameter

    from gld_ros.mapping.model import LoadedModel, ModelUnavailable
    from gld_ros.mapping.model_fault import fault_of

    def factory(parameters):
        if parameters.model.bundle == "broken":
            raise ModelUnavailable("bundle 'broken' is broken")
        return LoadedModel(plain_oracle, {"backend": "oracle"}, (84, 112), fault_of)

    rig = make_rig(plain_oracle, model_factory=factory)
    rig.activate()
    rig.node.trigger_deactivate()
    rig.node.set_parameters([Parameter("model.bundle", value="broken")])
    assert rig.node.trigger_activate() != Result.SUCCESS
    assert "broken" in rig.node.problem
    assert rig.node.session is None
    rig.node.set_parameters([Parameter("model.bundle", value="tiny")])
    rig.activate()
    rig.drive((0.0,))
