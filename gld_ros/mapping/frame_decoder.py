"""Pixels of a placed image and its depth: decoded, checked against its intrinsics, rectified.

Owns what decoding reveals about a camera (encoding, size, pinhole camera) and counts each failure
by cause. Which images are decoded is decided in `intake`.
"""

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.mapping.cameras import ArrivedDepth, CameraState
from gld_ros.mapping.fault_log import FaultLog, Level
from gld_ros.mapping.frames import CameraFrame, FloatArray, SensorDepth, shrink_to_fit
from gld_ros.mapping.keyframes import KeyframeStore
from gld_ros.mapping.parameters import SessionParameters
from gld_ros.mapping.pending import WaitingImage
from gld_ros.mapping.placed_frame import ArrivedImage
from gld_ros.messages.camera_info import (
    CameraInfoError,
    CameraInfoValues,
    PinholeCamera,
    pinhole_camera,
)
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.images import (
    ImageBridge,
    ImageError,
    OversizedImage,
    UnsupportedEncoding,
    rgb_from_message,
)


class FrameDecoder:
    """Decodes images of all cameras, one at a time; thread-safe.

    A camera whose images change their size loses its keyframes in `store`. `image_bridge` is that
    of rgb_from_message.
    """

    def __init__(
        self, store: KeyframeStore, faults: FaultLog, image_bridge: ImageBridge | None
    ) -> None:
        self._store, self._faults, self._image_bridge = store, faults, image_bridge
        self._decoding = Lock()  # guards what decoding reveals about a camera

    def frame(
        self,
        state: CameraState,
        waiting: WaitingImage[ArrivedImage],
        T_fixed_cam: FloatArray,
        epoch: int,
        wait_s: float,
        depth: ArrivedDepth | None,
        parameters: SessionParameters,
    ) -> CameraFrame | None:
        """Return the frame of an image of camera `state`; None if it was dropped, and counted."""
        with self._decoding:
            image = self._decode(state, waiting.payload.message, parameters.cameras.max_pixels)
            if image is None:
                return None
            pinhole = self._pinhole(state, image, waiting.payload.info, parameters)
            if pinhole is None:
                return None
            side_px = parameters.cameras.max_side_px
            kept, K_px = shrink_to_fit(pinhole.rectify(image), pinhole.K_px, (side_px, side_px))
            return CameraFrame(
                camera=waiting.camera,
                stamp_ns=waiting.stamp_ns,
                frame_id=waiting.frame_id,
                # A copy: the pixels may be memory of the middleware's message.
                image=np.array(kept),
                K_px=K_px,
                T_fixed_cam=T_fixed_cam,
                epoch=epoch,
                wait_tf_s=wait_s,
                sensor_depth=self._sensor_depth(state, depth, pinhole),
                source_hw=pinhole.image_hw,
            )

    def _decode(
        self, state: CameraState, message: Any, max_pixels: int
    ) -> NDArray[np.uint8] | None:
        try:
            decoded = rgb_from_message(message, self._image_bridge, max_pixels)
            state.encoding = message.format if state.compressed else message.encoding
        except UnsupportedEncoding as error:
            state.dropped["encoding"] += 1
            self._faults.once(f"{state.name}: encoding", "error", f"camera {state.name}: {error}")
            return None
        except ImageError as error:
            size = isinstance(error, OversizedImage) or not state.compressed
            state.dropped["size" if size else "decode"] += 1
            self._faults.throttled(
                f"{state.name}: malformed", "warning", f"camera {state.name}: {error}"
            )
            return None
        if decoded.reduced_from_16_bit:
            self._faults.once(
                f"{state.name}: 16 bit",
                "info",
                f"camera {state.name}: 16-bit colours; their upper 8 bits are used",
            )
        image_hw = (decoded.rgb.shape[0], decoded.rgb.shape[1])
        if state.image_hw is not None and state.image_hw != image_hw:
            flushed = self._store.flush(state.name)
            self._faults.throttled(
                f"{state.name}: size changed",
                "info",
                f"camera {state.name}: image size changed from {state.image_hw[1]}x"
                f"{state.image_hw[0]} to {image_hw[1]}x{image_hw[0]}; its {flushed} keyframes are "
                "forgotten",
            )
        state.image_hw = image_hw
        return decoded.rgb

    def _pinhole(
        self,
        state: CameraState,
        image: NDArray[np.uint8],
        info: CameraInfoValues,
        parameters: SessionParameters,
    ) -> PinholeCamera | None:
        key = (info, (image.shape[0], image.shape[1]))
        if state.pinhole_of == key:
            return state.pinhole
        if state.rejected_of == key:
            state.dropped["info"] += 1
            return None
        try:
            pinhole = pinhole_camera(info, key[1], parameters.cameras.rectification, state.topic)
        except CameraInfoError as error:
            state.rejection, state.rejected_of, state.pinhole_of = str(error), key, None
            state.dropped["info"] += 1
            self._faults.once(
                f"{state.name}: info {error.fault.value}",
                "error",
                f"camera {state.name} is rejected: {error}",
            )
            return None
        state.pinhole, state.pinhole_of = pinhole, key
        state.rejection, state.rejected_of = "", None
        level: Level = "warning" if any("is scaled" in note for note in pinhole.notes) else "info"
        # One cause for all: a calibration that keeps changing must not fill memory and log.
        self._faults.throttled(
            f"{state.name}: calibration",
            level,
            f"camera {state.name}: {'; '.join(pinhole.notes)}",
        )
        return pinhole

    def _sensor_depth(
        self, state: CameraState, depth: ArrivedDepth | None, pinhole: PinholeCamera
    ) -> SensorDepth | None:
        """Depth that is registered to an image, rectified as the image is."""
        if depth is None:
            return None
        try:
            depth_m = depth_m_from_message(depth.message)
            return SensorDepth(*pinhole.rectify_depth(depth_m, state.depth_topic))
        except (ImageError, CameraInfoError) as error:  # its pixels; P, if it is rectified already
            state.refuse_depth("depth", str(error))
            self._faults.throttled(
                f"{state.name}: depth",
                "warning",
                f"camera {state.name}: depth is dropped: {error}",
            )
            return None
