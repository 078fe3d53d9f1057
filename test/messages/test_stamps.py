"""Stamps survive the way through messages."""

from gld_ros.messages.stamps import ns_to_stamp, stamp_to_ns

S = 10**9
T0 = 1_700_000_000 * S


def test_stamps_keep_every_nanosecond(family):
    time_type = family.type("builtin_interfaces/msg/Time")
    for stamp_ns in (0, 1, S - 1, S, T0 + 123_456_789):
        assert stamp_to_ns(ns_to_stamp(stamp_ns, time_type)) == stamp_ns
