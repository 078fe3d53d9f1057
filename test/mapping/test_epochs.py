from hypothesis import given
from hypothesis import strategies as st

from gld_ros.mapping.epochs import EpochMonitor, StampFault, is_future_stamp

S = 1_000_000_000


def test_steady_time_is_one_epoch():
    monitor = EpochMonitor()
    for i in range(100):
        assert monitor.clock_reading(i * S, i * S) is None
        assert monitor.image_stamp("front", (i + 1) * S).usable
    assert monitor.epoch == 0


def test_a_looping_bag_starts_a_new_epoch_once():
    monitor = EpochMonitor(backward_tolerance_s=0.1)
    monitor.clock_reading(50 * S, 10 * S)
    jump = monitor.clock_reading(5 * S, 11 * S)
    assert jump.epoch == monitor.epoch == 1
    assert "45.000 s" in jump.reason
    assert monitor.clock_reading(6 * S, 12 * S) is None
    assert monitor.image_stamp("front", 5 * S).usable  # stamps start over too


def test_micro_jumps_are_ignored():
    monitor = EpochMonitor(backward_tolerance_s=0.1)
    monitor.clock_reading(10 * S, 0)
    assert monitor.clock_reading(10 * S - S // 20, S) is None
    assert monitor.clock_callback(-S // 20, source_changed=False) is None
    monitor.image_stamp("front", 10 * S)
    verdict = monitor.image_stamp("front", 10 * S - S // 20)
    assert (verdict.usable, verdict.fault, verdict.jump) == (False, StampFault.BACKWARD, None)
    assert monitor.epoch == 0


def test_a_forward_gap_counts_only_if_steady_time_did_not_pass():
    monitor = EpochMonitor(forward_gap_s=10.0)
    monitor.clock_reading(0, 0)
    assert monitor.clock_reading(60 * S, 60 * S) is None  # nobody looked for a minute
    assert monitor.clock_reading(60 * S, 200 * S) is None  # a paused bag
    assert monitor.clock_reading(80 * S, 201 * S).epoch == 1  # a seek


def test_the_clock_callback_reports_source_changes():
    monitor = EpochMonitor()
    assert "simulated" in monitor.clock_callback(0, source_changed=True).reason
    assert monitor.clock_callback(11 * S, source_changed=False).epoch == 2


def test_one_restarted_camera_is_not_a_time_jump():
    monitor = EpochMonitor()
    monitor.image_stamp("front", 100 * S)
    monitor.image_stamp("rear", 100 * S)
    assert monitor.image_stamp("rear", 50 * S).fault is StampFault.BACKWARD
    assert monitor.epoch == 0
    monitor.image_stamp("front", 101 * S)
    assert monitor.image_stamp("rear", 51 * S).jump is None
    # Now the other one falls behind as well, and stays behind.
    assert monitor.image_stamp("front", 52 * S).jump is None
    verdict = monitor.image_stamp("front", 53 * S)
    assert verdict.usable
    assert verdict.jump.epoch == 1


def test_late_images_of_a_second_publisher_are_no_time_jump():
    monitor = EpochMonitor(backward_tolerance_s=0.1)
    for i in range(1, 50):
        assert monitor.image_stamp("front", 10 * S + i * S // 10).usable
        late = monitor.image_stamp("front", 10 * S + i * S // 10 - 3 * S // 10)
        assert late.fault is StampFault.BACKWARD
        same = monitor.image_stamp("front", 10 * S + i * S // 10 - 3 * S // 10)
        assert same.fault is StampFault.BACKWARD
    assert monitor.epoch == 0


def test_a_camera_that_stays_behind_begins_a_new_epoch_with_its_next_image():
    monitor = EpochMonitor(backward_tolerance_s=0.1)
    monitor.image_stamp("front", 50 * S)
    assert not monitor.image_stamp("front", 5 * S).usable
    verdict = monitor.image_stamp("front", 5 * S + S // 10)
    assert verdict.usable
    assert verdict.jump.epoch == 1
    assert monitor.image_stamp("front", 5 * S + 2 * S // 10).jump is None


def test_a_zero_stamp_is_a_fault_of_its_own():
    assert EpochMonitor().image_stamp("front", 0).fault is StampFault.ZERO


def test_equal_stamps_are_dropped():
    monitor = EpochMonitor()
    monitor.image_stamp("front", 5 * S)
    assert monitor.image_stamp("front", 5 * S).fault is StampFault.BACKWARD


def test_future_stamps_begin_after_a_second():
    assert not is_future_stamp(11 * S, 10 * S)
    assert is_future_stamp(11 * S + 1, 10 * S)


@given(st.lists(st.integers(1, 1000), min_size=1))
def test_usable_stamps_of_an_epoch_always_increase(stamps):
    monitor = EpochMonitor(backward_tolerance_s=1e-7)  # 100 ns
    last, epoch = 0, 0
    for stamp in stamps:
        verdict = monitor.image_stamp("front", stamp)
        assert (monitor.epoch > epoch) == (verdict.jump is not None)
        if verdict.jump:
            last, epoch = 0, monitor.epoch
        if verdict.usable:
            assert stamp > last
            last = stamp
