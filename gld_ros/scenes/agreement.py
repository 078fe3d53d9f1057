"""Whether the images of a recording fit its poses, checked where its motion changes most."""

import numpy as np
from scipy.spatial.transform import Rotation

from gld_ros.measuring.agreement import MIN_BASELINE_M, Agreement, image_pose_agreement
from gld_ros.measuring.frames import PosedImage
from gld_ros.scenes.recording import FloatArray, Recording

MAX_FRAMES = 40  # that are looked at: enough to judge, and seconds of work
MIN_STEP_S = 0.08  # between them; images of a fast camera hardly differ


def recording_agreement(recording: Recording) -> Agreement:
    """Compare images with poses in the stretch of a recording whose motion shows most.

    Raises RecordingError for a frame that cannot be read.
    """
    frames = [recording.load(i) for i in _stretch(recording)]
    return image_pose_agreement(
        [PosedImage(f.rgb, f.K_px, f.T_world_cam, f.stamp_ns, "camera") for f in frames]
    )


def _stretch(recording: Recording) -> list[int]:
    """Frames not too close in time, consecutive but for that, whose motion shows most."""
    apart: list[int] = []
    for i in np.argsort(recording.stamps_ns, kind="stable"):
        step_ns = recording.stamps_ns[i] - recording.stamps_ns[apart[-1]] if apart else 0
        if not apart or step_ns >= MIN_STEP_S * 1e9:
            apart.append(int(i))
    if len(apart) <= MAX_FRAMES:
        return apart
    inside = np.convolve(_told(recording.T_world_cam[apart]), np.ones(MAX_FRAMES - 1), "valid")
    first = int(np.argmax(inside))
    return apart[first : first + MAX_FRAMES]


def _told(T_world_cam: FloatArray) -> FloatArray:
    """How much each step (N - 1,) between poses (N, 4, 4) shows: where turning changes, most.

    Poses of steady motion fit the images of any other time as well.
    """
    steps = np.linalg.inv(T_world_cam[:-1]) @ T_world_cam[1:]
    turns_rad = Rotation.from_matrix(steps[:, :3, :3]).as_rotvec()
    changes_rad = np.linalg.norm(np.diff(turns_rad, axis=0, prepend=turns_rad[:1]), axis=1)
    return np.where(np.linalg.norm(steps[:, :3, 3], axis=1) >= MIN_BASELINE_M, changes_rad, 0.0)
