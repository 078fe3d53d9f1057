"""Stamps survive the way through messages."""

from gld_ros.messages.stamps import age_in_words, ns_to_stamp, stamp_to_ns

S = 10**9
T0 = 1_700_000_000 * S


def test_stamps_keep_every_nanosecond(family):
    time_type = family.type("builtin_interfaces/msg/Time")
    for stamp_ns in (0, 1, S - 1, S, T0 + 123_456_789):
        assert stamp_to_ns(ns_to_stamp(stamp_ns, time_type)) == stamp_ns


def test_an_age_of_years_is_told_as_missing_simulated_time():
    assert age_in_words(3.25) == "3.2 s"
    assert "1106 days" in age_in_words(95_547_069.0)
    assert "use_sim_time" in age_in_words(95_547_069.0)
