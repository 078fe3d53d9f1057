"""Coverage and error of measured depth on scene folders with true or sensor depth.

Run: `OMP_NUM_THREADS=1 python benchmark/measuring.py SCENE_FOLDER ...`. Each block of keyframes is
measured with its neighbours among all frames of the folder, then checked across the block. Prints
per scene a row of what would be published of single images, and one with what the others of the
block say. Coverage is of pixels whose depth is known. `--robustness` adds rows with disturbed poses
and images. Instead, `--torch cpu` or `--torch cuda` compares the search in torch with the one in
NumPy, and `--speed` times both and the sweep written to be read, alternately in one process.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from launches import launches
from scipy.spatial.transform import Rotation, Slerp

from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.mapping.measurements import FARTHEST, NEAREST
from gld_ros.mapping.stereo_partners import PARTNERS
from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.consistency import MeasuredImage, consistent
from gld_ros.measuring.depth_range import depth_range
from gld_ros.measuring.frames import FloatArray, MeasuredDepth, PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.measuring.neighbours import choose_neighbours
from gld_ros.measuring.reference import reference_depth
from gld_ros.scenes.folders import find_scene_folders, open_scene_folder
from gld_ros.scenes.recording import Recording

WINDOW = 12  # frames on either side that may serve as neighbours
TYPICAL_DEPTH_M = 2.5  # where corners say nothing


@dataclass(frozen=True)
class Disturbance:
    """What is done to the frames before anything is measured."""

    name: str
    noise_m: float = 0.0
    noise_deg: float = 0.0
    offset_s: float = 0.0
    exposure: float = 0.0  # gains within 1 - exposure .. 1 + exposure
    block: bool = False  # an opaque block, as large as a person, walks through the images


DISTURBANCES = (
    *(
        Disturbance(f"pose noise {mm} mm, {mm / 20:g} deg", noise_m=mm / 1000, noise_deg=mm / 20)
        for mm in (5, 10, 20)
    ),
    *(Disturbance(f"time offset {ms} ms", offset_s=ms / 1000) for ms in (10, 20, 40)),
    *(Disturbance(f"exposure +-{percent} %", exposure=percent / 100) for percent in (15, 30, 50)),
    Disturbance("moving block", block=True),
)
VERY_SURE = 0.95  # confidence of depth that hardly ever may be wrong


def disturbed_frames(
    recording: Recording, indices: range, disturbance: Disturbance, max_side: int
) -> dict[int, PosedImage]:
    """Frames by index, at most `max_side` wide, with the disturbance in them."""
    rng = np.random.default_rng(0)
    times_s = (recording.stamps_ns - recording.stamps_ns[0]) * 1e-9
    turns = Slerp(times_s, Rotation.from_matrix(recording.T_world_cam[:, :3, :3]))
    frames = {}
    for i in indices:
        frame = recording.load(i)
        T = np.array(frame.T_world_cam)
        if disturbance.offset_s:
            time_s = float(np.clip(times_s[i] + disturbance.offset_s, times_s[0], times_s[-1]))
            T[:3, :3] = turns(time_s).as_matrix()
            places_m = recording.T_world_cam[:, :3, 3]
            T[:3, 3] = [np.interp(time_s, times_s, axis) for axis in places_m.T]
        T[:3, 3] += rng.normal(0, disturbance.noise_m / np.sqrt(3), 3)
        turn = rng.normal(0, np.radians(disturbance.noise_deg) / np.sqrt(3), 3)
        T[:3, :3] = T[:3, :3] @ Rotation.from_rotvec(turn).as_matrix()
        gain = 1 + rng.uniform(-disturbance.exposure, disturbance.exposure)
        image = np.clip(frame.rgb * gain, 0, 255).astype(np.uint8)
        scale = min(1.0, max_side / image.shape[1])
        hw = round(image.shape[0] * scale), round(image.shape[1] * scale)
        K_px = resized_intrinsics(frame.K_px, hw[1] / image.shape[1], hw[0] / image.shape[0])
        image = cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA)
        if disturbance.block:
            image = image.copy()
            left = int((0.5 + 0.35 * np.sin(0.7 * i)) * hw[1])
            image[hw[0] // 4 :, left : left + hw[1] // 8] = _person(hw[0] - hw[0] // 4, hw[1] // 8)[
                :, : hw[1] - left
            ]
        frames[i] = PosedImage(image, K_px, T, int(recording.stamps_ns[i]), "camera")
    return frames


def _person(height: int, width: int) -> np.ndarray:
    """A textured block (h, w, 3), the same at every call."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(20, 235, (height // 6 + 1, width // 6 + 1, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def keyframe_blocks(
    recording: Recording, disturbance: Disturbance, arguments: argparse.Namespace
) -> Iterator[tuple[dict[int, PosedImage], list[int]]]:
    """Blocks of keyframes spread over a recording: the frames around each, and its indices."""
    length = arguments.keyframes * arguments.stride
    starts = np.linspace(WINDOW // 2, len(recording) - length, arguments.blocks).astype(int)
    for start in starts:
        keyframes = list(range(start, start + length, arguments.stride))
        wanted = range(max(0, start - WINDOW), min(len(recording), keyframes[-1] + WINDOW + 1))
        yield disturbed_frames(recording, wanted, disturbance, arguments.width), keyframes


def search_arguments(
    frames: dict[int, PosedImage], i: int
) -> tuple[list[PosedImage], MeasuringParameters]:
    """Neighbours of a keyframe among the frames around it, and the range searched, as live."""
    around = [frame for j, frame in frames.items() if 0 < abs(j - i) <= WINDOW]
    found = depth_range(frames[i], [frames[j] for j in (i - 3, i + 3) if j in frames])
    typical_m = found.typical_m if found else TYPICAL_DEPTH_M
    parameters = MeasuringParameters(depth_range_m=(NEAREST * typical_m, FARTHEST * typical_m))
    return choose_neighbours(frames[i], around, typical_m, PARTNERS), parameters


def measure_block(
    frames: dict[int, PosedImage], keyframes: list[int], device: torch.device | None = None
) -> list[MeasuredImage]:
    """The keyframes, each measured with neighbours among the frames around it."""
    return [
        MeasuredImage(frames[i], measure_depth(frames[i], *search_arguments(frames, i), device))
        for i in keyframes
    ]


def depth_on_grid(recording: Recording, i: int, image_hw: tuple[int, int]) -> FloatArray:
    """A frame's true depth (h, w) at another size; NaN where unknown."""
    depth_m = recording.load(i).depth_m
    if depth_m is None:
        return np.full(image_hw, np.nan)
    depth_m = cv2.resize(depth_m, image_hw[::-1], interpolation=cv2.INTER_NEAREST)
    return np.where(depth_m > 0, depth_m, np.nan)


def row(name: str, depth_m: FloatArray, confidence: FloatArray, true_m: FloatArray) -> str:
    """Coverage of the pixels with a true depth, and their errors; those of very sure ones."""
    known = np.isfinite(true_m)
    if not known.any():
        return f"{name:42s} measured {np.isfinite(depth_m).mean():6.1%}  nothing to compare"
    error = np.abs(depth_m[known] / true_m[known] - 1)
    coverage = np.isfinite(error).mean()
    very_sure = error[np.isfinite(error) & (confidence[known] >= VERY_SURE)]
    error = error[np.isfinite(error)]
    if len(error) == 0:
        return f"{name:42s} coverage {coverage:6.1%}"
    told = (
        f"{name:42s} coverage {coverage:6.1%}  median {np.median(error):6.2%}  "
        f"mean {error.mean():6.2%}  over 20 %: {(error > 0.2).mean():6.2%}"
    )
    if len(very_sure):
        told += (
            f"  confidence {VERY_SURE:g} and more: {len(very_sure) / len(error):6.1%} of these, "
            f"over 20 %: {(very_sure > 0.2).mean():6.2%}"
        )
    return told


def judge(recording: Recording, disturbance: Disturbance, arguments: argparse.Namespace) -> None:
    """Print what is measured of a recording's blocks of keyframes."""
    single, published, true = [], [], []
    for frames, keyframes in keyframe_blocks(recording, disturbance, arguments):
        block = measure_block(frames, keyframes)
        for i, image in zip(keyframes, block, strict=True):
            true.append(depth_on_grid(recording, i, image.frame.image_hw).ravel())
            single.append(image.measured)
            published.append(consistent(image, [o for o in block if o is not image]))
    name = f"{recording.scene_id} {disturbance.name}".strip()
    true_m = np.concatenate(true)
    for kind, found in (("one image", single), ("with others", published)):
        depth_m = np.concatenate([_sure(measured) for measured in found])
        confidence = np.concatenate([measured.confidence.ravel() for measured in found])
        print(row(f"{name}: {kind}", depth_m, confidence, true_m), flush=True)


def _sure(measured: MeasuredDepth) -> FloatArray:
    """Depth (N,) of an image where it would be published."""
    return np.where(measured.confidence >= SURE, measured.depth_m, np.nan).ravel()


def compare(recording: Recording, device: torch.device, arguments: argparse.Namespace) -> None:
    """Print how far depth that torch publishes of single images is from NumPy's."""
    in_numpy, in_torch = [], []
    for frames, keyframes in keyframe_blocks(recording, Disturbance(""), arguments):
        for found, where in ((in_numpy, None), (in_torch, device)):
            block = measure_block(frames, keyframes, where)
            found += [_sure(image.measured) for image in block]
    numpy_m, torch_m = np.concatenate(in_numpy), np.concatenate(in_torch)
    here, there = np.isfinite(numpy_m), np.isfinite(torch_m)
    difference = np.abs(torch_m / numpy_m - 1)[here & there]
    print(
        f"{recording.scene_id}, {len(in_numpy)} keyframes: measured in NumPy {here.mean():.2%}, in "
        f"torch on {device} {there.mean():.2%}, by one alone {(here != there).mean():.2%}; of the "
        f"others {(difference < 0.01).mean():.2%} within 1 %, median difference "
        f"{np.median(difference):.1e}",
        flush=True,
    )


def time_searches(recording: Recording, arguments: argparse.Namespace) -> None:
    """Print processor times of all that measure a keyframe, taken alternately."""
    middle = len(recording) // 2
    wanted = range(max(0, middle - WINDOW), min(len(recording), middle + WINDOW + 1))
    frames = disturbed_frames(recording, wanted, Disturbance(""), arguments.width)
    neighbours, parameters = search_arguments(frames, middle)
    cpu = torch.device("cpu")
    actions: dict[str, Callable[[], object]] = {
        "NumPy": lambda: measure_depth(frames[middle], neighbours, parameters),
        "torch": lambda: measure_depth(frames[middle], neighbours, parameters, cpu),
        "written to be read": lambda: reference_depth(
            frames[middle], neighbours, parameters.depth_range_m, parameters.planes, 2
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    actions["NumPy"]()
    operations = launches(actions["torch"])
    for _ in range(arguments.repeats):
        for name, action in actions.items():
            started = time.process_time()
            action()
            times[name].append(time.process_time() - started)
    height, width = frames[middle].image_hw
    print(
        f"{recording.scene_id}, {width}x{height}, {len(neighbours)} neighbours, one CPU core: "
        + ", ".join(f"{name} {min(taken):.3f} s" for name, taken in times.items())
        + f"; torch takes {operations} operations"
    )


def main() -> None:
    """Print the rows of all scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="+", type=Path, help="scene folders, or folders of them")
    parser.add_argument("--blocks", type=int, default=2, help="of keyframes, spread over a scene")
    parser.add_argument("--keyframes", type=int, default=9, help="of one block")
    parser.add_argument("--stride", type=int, default=2, help="frames between keyframes")
    parser.add_argument("--width", type=int, default=320, help="largest width of images, pixels")
    parser.add_argument("--robustness", action="store_true", help="disturb poses and images, too")
    parser.add_argument("--torch", metavar="DEVICE", help="only compare torch there with NumPy")
    parser.add_argument("--speed", action="store_true", help="only time the sweeps")
    parser.add_argument("--repeats", type=int, default=3, help="of each sweep that is timed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for path in arguments.scenes:
        for folder in find_scene_folders(path):
            recording = open_scene_folder(folder)
            if arguments.speed:
                time_searches(recording, arguments)
                continue
            if arguments.torch:
                compare(recording, torch.device(arguments.torch), arguments)
                continue
            judge(recording, Disturbance(""), arguments)
            for disturbance in DISTURBANCES if arguments.robustness else ():
                judge(recording, disturbance, arguments)


if __name__ == "__main__":
    main()
