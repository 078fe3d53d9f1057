"""From a CameraInfo and an image size to a pinhole camera and the images' rectification maps.

Owns every decision about intrinsics: which values are rejected and why, region of interest and
binning (REP-104), and whether images are rectified already; colour images and the depth images
registered to them are rectified here and nowhere else. Works on any object with the fields of
sensor_msgs/CameraInfo, from rclpy or out of a bag.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.geometry.crop_resize import resized_intrinsics
from gld_ros.messages.rectification import rectification_maps, widest_full_view
from gld_ros.messages.types import Types, is_rclpy_type

FloatArray = NDArray[np.floating[Any]]
Rectification = Literal["auto", "rectify", "input_is_rectified"]

RECTIFICATIONS: tuple[Rectification, ...] = ("auto", "rectify", "input_is_rectified")
# Lengths of D that OpenCV understands, per model of `sensor_msgs/distortion_models.hpp`.
DISTORTION_LENGTHS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
SAME_TOLERANCE = 1e-5  # 0.01 px of a focal length of 1000 px
TRANSPORT_SUFFIXES = ("compressed", "compressedDepth", "theora", "zstd", "ffmpeg")

_MAX_INTRINSIC_PX = 1e9  # far beyond any camera; products of larger ones leave double precision


class CameraInfoFault(Enum):
    """Why a camera is rejected; the value is the word used in diagnostics."""

    UNCALIBRATED = "uncalibrated"
    NOT_FINITE = "not_finite"
    BAD_FOCAL_LENGTH = "bad_focal_length"
    NOT_PINHOLE = "not_pinhole"
    UNKNOWN_DISTORTION = "unknown_distortion"
    BAD_DISTORTION = "bad_distortion"
    BAD_REGION = "bad_region"
    SIZE_MISMATCH = "size_mismatch"


class CameraInfoError(ValueError):
    """A CameraInfo that cannot be used; `fault` says why in one word, the text in a sentence."""

    def __init__(self, fault: CameraInfoFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class CameraInfoValues:
    """The fields of `sensor_msgs/CameraInfo` that matter here; R does not."""

    width: int
    height: int
    distortion_model: str = ""
    D: tuple[float, ...] = ()
    K: tuple[float, ...] = (0.0,) * 9
    P: tuple[float, ...] = (0.0,) * 12
    binning_x: int = 0  # 0 is 1
    binning_y: int = 0
    roi_x_offset: int = 0
    roi_y_offset: int = 0
    roi_height: int = 0  # 0 is the whole image
    roi_width: int = 0


def camera_info_values(message: Any) -> CameraInfoValues:
    """Return the fields of a sensor_msgs/CameraInfo, from rclpy or from a bag."""

    def matrix(name: str) -> tuple[float, ...]:
        # ROS 1 and old bags spell these fields with capitals.
        spelling = name if hasattr(message, name) else name.upper()
        return tuple(float(value) for value in getattr(message, spelling))

    roi = message.roi
    return CameraInfoValues(
        width=int(message.width),
        height=int(message.height),
        distortion_model=message.distortion_model,
        D=matrix("d"),
        K=matrix("k"),
        P=matrix("p"),
        binning_x=int(message.binning_x),
        binning_y=int(message.binning_y),
        roi_x_offset=int(roi.x_offset),
        roi_y_offset=int(roi.y_offset),
        roi_height=int(roi.height),
        roi_width=int(roi.width),
    )


def same_calibration(a: CameraInfoValues, b: CameraInfoValues) -> bool:
    """Whether two CameraInfos describe one camera, but for digits that no calibration has.

    Autofocus and drivers that recompute K change it by less than `SAME_TOLERANCE`, relative to its
    values; NaN equals NaN.
    """
    numbers = ("K", "D", "P")
    if replace(a, K=(), D=(), P=()) != replace(b, K=(), D=(), P=()):
        return False
    pairs = ((np.array(getattr(a, n)), np.array(getattr(b, n))) for n in numbers)
    return all(
        x.shape == y.shape
        and np.allclose(x, y, rtol=SAME_TOLERANCE, atol=SAME_TOLERANCE, equal_nan=True)
        for x, y in pairs
    )


def camera_info_message(
    K_px: NDArray[Any], image_hw: tuple[int, int], header: Any, types: Types
) -> Any:
    """Return the CameraInfo of a pinhole image without distortion (REP-104)."""
    kind = types("sensor_msgs/msg/CameraInfo")

    def doubles(values: Any) -> Any:
        flat = np.asarray(values, dtype=np.float64).reshape(-1)
        return flat.tolist() if is_rclpy_type(kind) else flat

    return kind(
        header=header,
        height=image_hw[0],
        width=image_hw[1],
        distortion_model="plumb_bob",
        d=doubles(np.zeros(5)),
        k=doubles(K_px),
        r=doubles(np.eye(3)),
        p=doubles(np.concatenate([np.asarray(K_px), np.zeros((3, 1))], axis=1)),
        binning_x=0,
        binning_y=0,
        roi=types("sensor_msgs/msg/RegionOfInterest")(
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )


class RectifyDepth(Protocol):
    """What `PinholeCamera.rectify_depth` is."""

    def __call__(self, depth_m: FloatArray, topic: str = "") -> tuple[FloatArray, FloatArray]: ...


@dataclass(frozen=True, eq=False)
class PinholeCamera:
    """Intrinsics of the images that `rectify` returns; its axes are those of the frame_id.

    `rectify_depth` takes z-depth (h, w) registered to the images, of any size that shows the same
    view, and its topic, if known. Returns it rectified, of the same size, with its own K_px: every
    pixel the nearest one of the input, never a mean, which across an edge is no surface's depth.
    Depth whose topic says that it is rectified already is returned with the K of P.
    """

    K_px: FloatArray  # (3, 3)
    image_hw: tuple[int, int]  # of the input and of the output
    remaps: bool  # False: images pass through untouched
    notes: tuple[str, ...]  # decisions worth one log line
    rectify: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    rectify_depth: RectifyDepth


def pinhole_camera(
    info: CameraInfoValues,
    image_hw: tuple[int, int],
    rectification: Rectification = "auto",
    topic: str = "",
) -> PinholeCamera:
    """The pinhole camera of images of `image_hw` that come with `info` on `topic`.

    `rectify` undistorts with K and D and zooms until no output pixel lies outside the input, so a
    model never sees black borders; `input_is_rectified` takes P; `auto` decides by the topic name
    (`is_rectified_topic`), because rectified topics share a CameraInfo that still carries D.
    Raises CameraInfoError when the camera cannot be used.
    """
    if rectification not in RECTIFICATIONS:
        raise ValueError(f"rectification is {rectification!r}; allowed are {RECTIFICATIONS}")
    notes: list[str] = []
    rectified_input = rectification == "input_is_rectified" or (
        rectification == "auto" and is_rectified_topic(topic)
    )
    if rectified_input:
        K_full = _projection_intrinsics(info, notes)
        notes.append("images are assumed to be rectified: P is used")
    else:
        K_full = _raw_intrinsics(info)
    D = np.zeros(0) if rectified_input else _distortion(info)
    K_px = _image_intrinsics(K_full, info, image_hw, notes)
    if not D.any():
        if not rectified_input:
            notes.append("no distortion: K is used and images pass through")

        def scaled(depth_m: FloatArray, topic: str = "") -> tuple[FloatArray, FloatArray]:
            return depth_m, _at_size(K_px, image_hw, depth_m.shape)

        return PinholeCamera(K_px, image_hw, False, tuple(notes), lambda image: image, scaled)

    model = info.distortion_model
    try:
        K_new = widest_full_view(K_px, D, model, image_hw)
        if K_new is None:
            raise CameraInfoError(
                CameraInfoFault.BAD_DISTORTION,
                f"{model} with D {D.tolist()} leaves no rectified image of "
                f"{image_hw[1]}x{image_hw[0]}; check the calibration",
            )
        map_x, map_y = rectification_maps(K_px, D, model, K_new, image_hw)
    except (cv2.error, np.linalg.LinAlgError) as error:
        raise CameraInfoError(
            CameraInfoFault.BAD_DISTORTION,
            f"{model} with D {D.tolist()} cannot be computed: {error}",
        ) from error
    notes.append(
        f"images are rectified ({model}): focal length "
        f"{K_px[0, 0]:.1f} px becomes {K_new[0, 0]:.1f} px"
    )

    def rectify(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if image.shape[:2] != image_hw:
            raise ValueError(f"image has size {image.shape[:2]}; the maps are for {image_hw}")
        return np.asarray(
            cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )

    @lru_cache(maxsize=1)  # depth images of one camera have one size
    def depth_maps(hw: tuple[int, int]) -> tuple[FloatArray, FloatArray, FloatArray]:
        K_raw, K_depth = _at_size(K_px, image_hw, hw), _at_size(K_new, image_hw, hw)
        return *rectification_maps(K_raw, D, model, K_depth, hw), K_depth

    def rectify_depth(depth_m: FloatArray, topic: str = "") -> tuple[FloatArray, FloatArray]:
        if is_rectified_topic(topic):
            K_rectified = _image_intrinsics(_projection_intrinsics(info, []), info, image_hw, [])
            return depth_m, _at_size(K_rectified, image_hw, depth_m.shape)
        x, y, K_depth = depth_maps((depth_m.shape[0], depth_m.shape[1]))
        nearest = cv2.remap(depth_m, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(nearest), K_depth

    return PinholeCamera(K_new, image_hw, True, tuple(notes), rectify, rectify_depth)


def is_rectified_topic(topic: str) -> bool:
    """Whether the last name of a resolved image topic says `image_rect...`, transport aside."""
    return base_topic(topic).rpartition("/")[2].startswith("image_rect")


def base_topic(topic: str) -> str:
    """The name of an image topic without its transport (`compressed`, ...)."""
    base, _, last = topic.rpartition("/")
    return base if last in TRANSPORT_SUFFIXES else topic


def _require_matrix(values: tuple[float, ...], name: str) -> None:
    if not np.isfinite(values).all():
        raise CameraInfoError(
            CameraInfoFault.NOT_FINITE, f"CameraInfo {name} has NaN or infinity: {list(values)}"
        )


def _require_focal_lengths(K: FloatArray, name: str) -> None:
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise CameraInfoError(
            CameraInfoFault.BAD_FOCAL_LENGTH,
            f"CameraInfo {name} has focal lengths {K[0, 0]}, {K[1, 1]} px; both must be > 0",
        )
    if K[1, 0] != 0 or tuple(K[2]) != (0, 0, 1) or np.abs(K).max() > _MAX_INTRINSIC_PX:
        raise CameraInfoError(
            CameraInfoFault.NOT_PINHOLE,
            f"CameraInfo {name} is {K.tolist()}; rows fx s cx, 0 fy cy, 0 0 1 are needed, with no "
            f"value above {_MAX_INTRINSIC_PX:g} px",
        )


def _raw_intrinsics(info: CameraInfoValues) -> FloatArray:
    _require_matrix(info.K, "K")
    if not any(info.K):
        raise CameraInfoError(
            CameraInfoFault.UNCALIBRATED,
            "CameraInfo K is all zero: the camera is not calibrated (REP-104); calibrate it or "
            "give its driver a calibration file",
        )
    K = np.array(info.K, dtype=np.float64).reshape(3, 3)
    _require_focal_lengths(K, "K")
    return K


def _projection_intrinsics(info: CameraInfoValues, notes: list[str]) -> FloatArray:
    _require_matrix(info.P, "P")
    if any(info.P):
        K = np.array(info.P, dtype=np.float64).reshape(3, 4)[:, :3].copy()
        _require_focal_lengths(K, "P")
        return K
    notes.append("P is all zero: K is used in its place")
    return _raw_intrinsics(info)


def _distortion(info: CameraInfoValues) -> FloatArray:
    _require_matrix(info.D, "D")
    D = np.array(info.D, dtype=np.float64)
    if not D.any():
        return np.zeros(0)
    lengths = DISTORTION_LENGTHS.get(info.distortion_model)
    if lengths is None:
        raise CameraInfoError(
            CameraInfoFault.UNKNOWN_DISTORTION,
            f"distortion model {info.distortion_model!r} with D {D.tolist()} is not known; known "
            f"are {', '.join(DISTORTION_LENGTHS)}. Or publish rectified images and set "
            "cameras.rectification to input_is_rectified",
        )
    if D.size not in lengths:
        raise CameraInfoError(
            CameraInfoFault.BAD_DISTORTION,
            f"{info.distortion_model} has {D.size} values in D; allowed are {lengths}",
        )
    return D


def described_hw(info: CameraInfoValues) -> tuple[int, int]:
    """The size (H, W) of the images that a CameraInfo describes: region of interest, binned."""
    region_h, region_w = info.roi_height or info.height, info.roi_width or info.width
    return region_h // max(info.binning_y, 1), region_w // max(info.binning_x, 1)


def _at_size(K_px: FloatArray, image_hw: tuple[int, int], hw: tuple[int, ...]) -> FloatArray:
    """`K_px` of an image, for an image of another size with the same view."""
    return resized_intrinsics(K_px, hw[1] / image_hw[1], hw[0] / image_hw[0])


def _image_intrinsics(
    K_full: FloatArray, info: CameraInfoValues, image_hw: tuple[int, int], notes: list[str]
) -> FloatArray:
    """Apply region of interest, binning (both REP-104) and an integer size ratio to K.

    A binned pixel is the mean of its block, whose centre is the block's centre: half pixels count.
    """
    if info.width <= 0 or info.height <= 0:
        raise CameraInfoError(
            CameraInfoFault.SIZE_MISMATCH,
            f"CameraInfo has size {info.width}x{info.height}; the calibrated size is needed",
        )
    region_h, region_w = info.roi_height or info.height, info.roi_width or info.width
    if info.roi_x_offset + region_w > info.width or info.roi_y_offset + region_h > info.height:
        raise CameraInfoError(
            CameraInfoFault.BAD_REGION,
            f"CameraInfo roi {region_w}x{region_h} at ({info.roi_x_offset}, {info.roi_y_offset}) "
            f"leaves the {info.width}x{info.height} image",
        )
    K = K_full.copy()
    K[0, 2] -= info.roi_x_offset
    K[1, 2] -= info.roi_y_offset
    binning_x, binning_y = max(info.binning_x, 1), max(info.binning_y, 1)
    K = resized_intrinsics(K, 1.0 / binning_x, 1.0 / binning_y)

    expected_hw = described_hw(info)
    if image_hw == expected_hw:
        return K
    ratio_y, ratio_x = (_integer_ratio(image_hw[i], expected_hw[i]) for i in (0, 1))
    if ratio_x is None or ratio_y is None:
        raise CameraInfoError(
            CameraInfoFault.SIZE_MISMATCH,
            f"images are {image_hw[1]}x{image_hw[0]} but CameraInfo describes "
            f"{expected_hw[1]}x{expected_hw[0]}, and neither is a whole multiple of the other",
        )
    notes.append(
        f"images are {image_hw[1]}x{image_hw[0]} and CameraInfo describes "
        f"{expected_hw[1]}x{expected_hw[0]}: K is scaled by {ratio_x:.4g}, {ratio_y:.4g}"
    )
    return resized_intrinsics(K, ratio_x, ratio_y)


def _integer_ratio(size: int, expected: int) -> float | None:
    """`size` / `expected` if one is a whole multiple of the other."""
    if size <= 0 or expected <= 0 or (size % expected and expected % size):
        return None
    return size / expected
