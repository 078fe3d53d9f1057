import sys

import pytest

pytestmark = pytest.mark.ros


def test_threads_of_a_node_process_hand_over_in_half_a_millisecond(monkeypatch):
    """With the usual 5 ms a quarter of a camera's images is lost on idle cores."""
    import rclpy

    from gld_ros.ros.main import main

    def stop(**options):
        raise KeyboardInterrupt

    usual_s = sys.getswitchinterval()
    monkeypatch.setattr(rclpy, "init", stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            main([])
        assert sys.getswitchinterval() == pytest.approx(0.0005)
    finally:
        sys.setswitchinterval(usual_s)
