import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gld_ros.mapping.degrade import (
    CLEAN_JOBS_TO_RECOVER,
    LADDER,
    QUIET_S_TO_RESUME,
    DegradeLadder,
)
from gld_ros.mapping.jobs import (
    CancelReason,
    CancelToken,
    ErrorCode,
    JobKind,
    JobQueue,
    JobTiming,
    StageTimes,
    cancelled_result,
    outdated,
)
from gld_ros.view_request import Progress

S = 1_000_000_000


def test_error_codes_are_the_actions():
    assert [code.value for code in ErrorCode] == [0, *range(900, 911)]


def test_the_first_cancel_reason_stays():
    token = CancelToken()
    assert token.reason is None
    token.cancel(CancelReason.TIME_JUMP)
    token.cancel(CancelReason.USER)
    assert token.reason is CancelReason.TIME_JUMP


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (CancelReason.TIME_JUMP, ErrorCode.TIME_JUMP),
        (CancelReason.TIMEOUT, ErrorCode.TIMEOUT),
        (CancelReason.INACTIVE, ErrorCode.NODE_INACTIVE),
        (CancelReason.USER, ErrorCode.NONE),
    ],
)
def test_cancelled_jobs_say_why(job_of, reason, code):
    result = cancelled_result(job_of(), reason, StageTimes())
    assert (result.error_code, result.error_msg) == (code, reason.value)


def test_a_request_becomes_what_the_synthesizer_is_asked(job_of):
    job = job_of(job_id=42, num_targets=3, num_steps=7, guidance_scale=2.0, samples=2)
    request = job.view_request([2, 0], max_references=1)
    request.validate()
    assert len(request.images) == 1
    assert request.images[0] is job.anchor.image
    assert (request.T_world_cam_target[0] == job.targets[2].T_fixed_cam).all()
    assert (request.num_steps, request.guidance_scale, request.samples) == (7, 2.0, 2)
    assert request.seed == 42  # from the job id, so a bag replays alike
    assert job_of(job_id=42, seed=5).view_request([0], 4).seed == 5


def test_the_latest_automatic_job_wins_and_goals_go_first(job_of):
    queue = JobQueue()
    first, second, goal = job_of(1), job_of(2), job_of(3, JobKind.GOAL)
    assert queue.put_automatic(first) is None
    assert queue.put_automatic(second) is first
    assert queue.put_goal(goal)
    assert not queue.put_goal(job_of(4, JobKind.GOAL))  # one waits already
    assert len(queue) == 2
    assert [queue.take(), queue.take(), queue.take()] == [goal, second, None]


def test_goals_that_waited_too_long_or_were_cancelled_are_stale(job_of):
    queue = JobQueue(max_goals=3)
    late = job_of(1, JobKind.GOAL, start_before_steady_s=10.0)
    cancelled, fine = job_of(2, JobKind.GOAL), job_of(3, JobKind.GOAL)
    cancelled.token.cancel(CancelReason.USER)
    for goal in (late, cancelled, fine):
        queue.put_goal(goal)
    assert queue.take_stale(9.0) == [cancelled]
    assert queue.take_stale(10.1) == [late]
    assert queue.drain() == [fine]


def test_a_running_job_is_outdated_after_two_mean_job_times(job_of):
    job = job_of()  # anchored at 2 s
    assert not outdated(job, 2 * S + 6 * S, mean_job_s=3.0)
    assert outdated(job, 2 * S + 6 * S + 1, mean_job_s=3.0)
    assert not outdated(job, 100 * S, mean_job_s=0.0)  # nothing is known yet
    assert not outdated(job_of(kind=JobKind.GOAL), 100 * S, mean_job_s=3.0)


def test_remaining_time_is_unknown_before_the_first_job():
    progress = JobTiming().progress(Progress("sampling", 25, 50), 3.0, 0, 1)
    assert progress.remaining_s == 0.0
    assert progress.fraction == pytest.approx(0.5)


def test_remaining_time_is_learnt_per_step():
    timing = JobTiming()
    timing.finished(StageTimes(encode=1.0, sample=10.0, decode=1.0, postprocess=1.0), 50, 1)
    assert timing.mean_job_s == pytest.approx(13.0)
    progress = timing.progress(Progress("sampling", 20, 50), 5.0, 0, 1)
    assert progress.remaining_s == pytest.approx(8.0)
    assert progress.fraction == pytest.approx(5 / 13)
    # Fewer steps take less; a second run of the same job takes as long again.
    assert timing.progress(Progress("sampling", 5, 10), 2.0, 0, 1).remaining_s == pytest.approx(3)
    two = timing.progress(Progress("encoding", 1, 1), 1.0, 0, 2)
    assert two.remaining_s == pytest.approx(12 + 13)


@given(st.integers(1, 60), st.integers(1, 3), st.booleans())
def test_progress_never_goes_back(steps, runs, known):
    timing = JobTiming()
    if known:
        timing.finished(StageTimes(encode=0.5, sample=2.0, decode=0.3), 20, 1)
    fractions = []
    for run in range(runs):
        for stage, total in (("encoding", 1), ("sampling", steps), ("decoding", 1)):
            for step in range(1, total + 1):
                progress = timing.progress(Progress(stage, step, total), 0.0, run, runs)
                assert math.isfinite(progress.remaining_s)
                if stage != "encoding" or not known:
                    fractions.append(progress.fraction)
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


def test_the_ladder_goes_down_per_failure_and_up_after_clean_jobs():
    ladder = DegradeLadder()
    assert not ladder.job_was_clean()
    levels = []
    while ladder.out_of_memory(0.0):
        levels.append(ladder.limits)
    assert [limits.level for limits in levels] == [1, 2, 3, 4, 5]
    assert ladder.limits.automatic_paused
    assert ladder.out_of_memory_count == 6
    for _ in range(CLEAN_JOBS_TO_RECOVER - 1):
        assert not ladder.job_was_clean()
    assert ladder.job_was_clean()
    assert ladder.limits.level == 4
    ladder.out_of_memory(0.0)
    for _ in range(CLEAN_JOBS_TO_RECOVER - 1):
        ladder.job_was_clean()
    assert ladder.limits.level == 5  # clean jobs before the failure do not count
    ladder.reset()
    assert ladder.limits.level == 0


def test_the_ladder_passes_over_levels_that_do_not_help():
    ladder = DegradeLadder()
    assert ladder.out_of_memory(0.0, lambda limits: limits.chunk_decoder)
    assert ladder.limits.level == 2
    assert ladder.out_of_memory(0.0, lambda limits: False)  # memory may be free again anyway
    assert ladder.limits.level == 3


def test_the_last_level_ends_after_quiet_time():
    ladder = DegradeLadder()
    while ladder.out_of_memory(10.0):
        pass
    ladder.resume_after_quiet(10.0 + QUIET_S_TO_RESUME - 1)
    assert ladder.limits.automatic_paused
    ladder.resume_after_quiet(10.0 + QUIET_S_TO_RESUME)
    assert ladder.limits.level == 4
    ladder.resume_after_quiet(1e6)  # further up only by clean jobs
    assert ladder.limits.level == 4


def test_each_level_gives_up_one_thing_more():
    given_up = [
        sum(
            (
                limits.targets_per_run is not None,
                limits.chunk_decoder,
                limits.max_reference_views is not None,
                limits.smallest_bucket,
                limits.automatic_paused,
            )
        )
        for limits in LADDER
    ]
    assert given_up == [0, 1, 2, 3, 4, 5]


def test_depth_of_every_camera_waits_beside_views_and_takes_its_turn(
    job_of, keyframe_of, camera_at
):
    def depth_of(job_id, camera):
        frame = keyframe_of(camera_at(0.0, 0.0), float(job_id), camera=camera, hw=(12, 16))
        return job_of(job_id, keyframes=(frame,), targets=())

    queue, views = JobQueue(), job_of(1)
    assert queue.put_automatic(views) is None
    older, left = depth_of(2, "front"), depth_of(3, "left")
    assert queue.put_automatic(older) is None
    assert queue.put_automatic(left) is None
    newer = depth_of(4, "front")
    assert queue.put_automatic(newer) is older
    assert [queue.take() for _ in range(4)] == [views, newer, left, None]


def test_a_running_depth_job_is_never_outdated(job_of):
    running = job_of(1, targets=())
    assert not outdated(running, running.anchor.stamp_ns + 60 * 10**9, 0.1)
