"""When the demonstration on its own tour is worse than it should be."""

import pytest

from gld_ros.demo.run import below_floors

GOOD = {"psnr_db": 28.0, "copy_nearest_psnr_db": 20.0, "depth": {"abs_rel": 0.06}}


def test_a_good_run_is_above_all_floors():
    assert below_floors([GOOD, GOOD]) == []


@pytest.mark.parametrize(
    ("goals", "words"),
    [
        ([GOOD | {"psnr_db": 21.0}], ["1.0 dB above copying; 3 are expected"]),
        ([GOOD, GOOD | {"depth": None}], ["1 of 2 goals have metric depth"]),
        ([GOOD | {"depth": {"abs_rel": 0.2}}], ["off by 20.0%; 7% at most"]),
        ([{"error_code": 903}], ["0.0 dB above copying", "0 of 1 goals have metric depth"]),
    ],
)
def test_what_is_worse_is_told(goals, words):
    found = below_floors(goals)
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert word in text
