"""Samples from recordings: which frames make a sample, crop and resize, and what an epoch holds.

Frame picking and epochs follow the published training of GLD: independent gaps within a range, a
filter on camera distance, a seeded mixture of datasets. All draws depend on seeds alone, so that a
resumed run skips what it has seen without loading it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gld_ros.geometry.crop_resize import gld_crop_resize, resample_depth
from gld_ros.scenes.recording import FloatArray, Frame, Recording, RecordingError
from gld_ros.scenes.sample import SampleError, validate_sample

MAX_CAMERA_DISTANCE = 100.0  # dataset units, from the world's origin
MAX_START_TRIES = 100
MAX_POSE_TRIES = 200
# The principal point must be farther from each border than this part of the image's size.
MIN_PRINCIPAL_MARGIN = 0.2


class NoSample(ValueError):
    """No sample can be drawn; the message says what was tried and what stood in the way."""


def pick_frames(
    rng: np.random.Generator, num_frames: int, num_views: int, gap_range: tuple[int, int]
) -> list[int] | None:
    """Frame indices of one sample in order of drawing, or None where the drawn start is too late.

    The start is uniform; every gap is uniform in [min, min(max, remaining / (views - 1))];
    positions past the end are replaced by later frames that are still free.
    """
    low, high = gap_range
    start = int(rng.integers(num_frames))
    if num_views == 1:
        return [start]
    remaining = num_frames - 1 - start
    if remaining < num_views - 1:
        return None
    widest = max(low, min(high, remaining // (num_views - 1)))
    gaps = rng.integers(low, widest + 1, size=num_views - 1)
    picked = [start, *(start + np.cumsum(gaps)).tolist()]
    used = {i for i in picked if i < num_frames}
    free = [i for i in range(start + 1, num_frames) if i not in used]
    rng.shuffle(free)
    return [i if i < num_frames else free.pop() for i in picked]


@dataclass
class RecordedScenes:
    """Samples drawn from recordings; `skipped` counts what had to be drawn again, by reason."""

    recordings: Sequence[Recording]
    num_views: int
    image_hw: tuple[int, int]
    max_camera_distance: float = MAX_CAMERA_DISTANCE
    skipped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Check that there is something to draw from."""
        if not self.recordings:
            raise NoSample("the dataset is empty: no recordings given")
        longest = max(len(recording) for recording in self.recordings)
        if longest < self.num_views:
            raise NoSample(
                f"samples need {self.num_views} frames; the longest recording has {longest}"
            )

    def sample(self, seed: int) -> dict[str, Any]:
        """The sample of one seed, in random view order.

        Frames that cannot be read, poses out of range and short recordings are drawn again and
        counted; raises NoSample when MAX_POSE_TRIES draws gave nothing.
        """
        rng = np.random.Generator(np.random.Philox(seed))
        reasons: Counter[str] = Counter()
        for _ in range(MAX_POSE_TRIES):
            recording = self.recordings[int(rng.integers(len(self.recordings)))]
            try:
                return self._draw(rng, recording)
            except (RecordingError, SampleError) as error:
                reasons[str(error.args[0])] += 1
                self.skipped[type(error).__name__] += 1
        reason, count = reasons.most_common(1)[0]
        raise NoSample(
            f"no sample of {self.num_views} views in {MAX_POSE_TRIES} tries; "
            f"{count} times because: {reason}"
        )

    def _draw(self, rng: np.random.Generator, recording: Recording) -> dict[str, Any]:
        picked = None
        for _ in range(MAX_START_TRIES):
            picked = pick_frames(rng, len(recording), self.num_views, recording.gap_range)
            if picked is not None:
                break
        if picked is None:
            raise RecordingError(f"{recording.scene_id} is too short for {self.num_views} views")
        distance = np.linalg.norm(recording.T_world_cam[picked, :3, 3], axis=-1)
        if not np.all(distance <= self.max_camera_distance):
            raise RecordingError(
                f"{recording.scene_id}: a camera lies {distance.max()} from the origin, beyond "
                f"{self.max_camera_distance}"
            )
        order = rng.permutation(self.num_views)
        frames = [recording.load(picked[i]) for i in order]
        return sample_of_frames(frames, recording.scene_id, recording.metric, self.image_hw)


def sample_of_frames(
    frames: Sequence[Frame], scene_id: str, metric: bool, image_hw: tuple[int, int]
) -> dict[str, Any]:
    """Crop and resize frames to one size and make them a sample; raises SampleError.

    Depth follows by inverse-depth interpolation; it is left out unless every frame has it.
    """
    images, intrinsics, depths = [], [], []
    for frame in frames:
        _require_central_principal_point(frame.K_px, frame.rgb.shape[:2], scene_id)
        image, K_px = gld_crop_resize(frame.rgb, frame.K_px, image_hw)
        images.append(torch.from_numpy(image.copy()).permute(2, 0, 1).float().div_(255))
        intrinsics.append(K_px)
        if frame.depth_m is not None:
            depth = resample_depth(frame.depth_m, frame.K_px, K_px, image_hw)
            depths.append(torch.from_numpy(np.nan_to_num(depth, nan=0.0)))
    sample: dict[str, Any] = {
        "images": torch.stack(images),
        "K_px": torch.from_numpy(np.stack(intrinsics)).float(),
        "T_world_cam": torch.from_numpy(np.stack([f.T_world_cam for f in frames])).float(),
        "scene_id": scene_id,
        "metric": metric,
    }
    if len(depths) == len(frames):
        sample["depth_m"] = torch.stack(depths).float()
    validate_sample(sample)
    return sample


def _require_central_principal_point(
    K_px: FloatArray, image_hw: tuple[int, ...], scene_id: str
) -> None:
    for centre, size in ((K_px[0, 2], image_hw[1]), (K_px[1, 2], image_hw[0])):
        if not MIN_PRINCIPAL_MARGIN * size < centre < (1 - MIN_PRINCIPAL_MARGIN) * size:
            raise SampleError(
                f"scene {scene_id}: principal point {centre:.1f} of {size} pixels is within "
                f"{MIN_PRINCIPAL_MARGIN:.0%} of the border"
            )


def epoch_draws(
    sizes: Mapping[str, int], draws: Mapping[str, int], epoch: int
) -> list[tuple[str, int]]:
    """What one epoch shows, in order: (dataset, index) pairs, the same for the same epoch number.

    Of each dataset a permutation is repeated and cut to its number of draws; then everything is
    shuffled together. Ranks take strided slices. Raises ValueError for draws from an empty or
    unknown dataset.
    """
    rng = np.random.Generator(np.random.Philox(epoch))
    pairs: list[tuple[str, int]] = []
    for name, count in draws.items():
        size = sizes.get(name, 0)
        if count > 0 and size < 1:
            raise ValueError(f"{count} draws from dataset {name!r}, which has no scenes")
        order: list[int] = []
        while len(order) < count:
            order.extend(rng.permutation(size).tolist())
        pairs.extend((name, index) for index in order[:count])
    return [pairs[i] for i in rng.permutation(len(pairs))]
