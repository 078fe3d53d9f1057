"""A written bag as a Rerun recording: every product where its frame is, TF, and a layout.

An entity is called as its topic. Products in frames of cameras and target views get the frame's
name below it, so that the views of one job do not replace each other. A CameraInfo is the pinhole
of its images.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gld_ros.bags.reader import BagMessage, BagReader
from gld_ros.geometry.poses import pose_from_quaternion
from gld_ros.mapping.product_messages import TOPICS
from gld_ros.mapping.provenance_colours import PROVENANCE_COLOURS
from gld_ros.messages.camera_info import camera_info_values
from gld_ros.messages.clouds import points_from_cloud
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.frame_tree import TransformUnavailable
from gld_ros.messages.images import mono8_from_image, rgb_from_message
from gld_ros.messages.transforms import TransformBuffer
from gld_ros.partial_folder import PartialFolder

TIMELINE = "stamp"
DEPTH_RANGE_M, RELATIVE_DEPTH_RANGE = (0.0, 10.0), (0.0, 3.0)
BACKGROUND = (30, 30, 34)  # measured points are white
_AXIS_M = 0.2
_AXIS_COLOURS = ((255, 60, 60), (60, 255, 60), (80, 120, 255))


def write_rerun_recording(
    bag: BagReader, path: Path, on_message: Callable[[], Any] = lambda: None
) -> dict[str, int]:
    """Write the node's products in a bag as an .rrd file; returns messages without a pose by topic.

    Poses are relative to the fixed frame that clouds and keyframes have, else to the root of TF.
    Raises ValueError for a bag without products, and ImportError that says what to install.
    """
    rerun = _rerun()
    products = product_topics(bag)
    if not products:
        raise ValueError(
            f"bag {bag.path} has no topic of the node, such as /gld/predicted/points; "
            "`gld-ros bag` writes bags that have"
        )
    if path.exists():
        raise ValueError(f"{path} exists already; remove it or choose another name")
    workspace = PartialFolder(path)
    try:
        unfinished = workspace.path / path.name
        recording = rerun.RecordingStream("gld_ros_bag")
        recording.save(str(unfinished))
        logger = _Logger(rerun, recording, bag.transforms()[0], _fixed_frame(bag, products))
        messages = bag.messages(products)
        for _, together in groupby(messages, key=lambda message: message.stamp_ns):
            batch = list(together)
            logger.log_moment(batch, products)
            for _ in batch:
                on_message()
        logger.log_transforms(bag)
        recording.send_blueprint(_layout(logger.images, products))
        recording.flush()
        recording.disconnect()
        unfinished.rename(path)
    finally:
        workspace.close()
    return logger.unplaced


def product_topics(bag: BagReader) -> dict[str, str]:
    """The topics of a bag that are a node's, whatever the node's name: topic -> name below it."""
    found = {}
    for topic in bag.topics.values():
        for name, (kind, _) in TOPICS.items():
            if topic.name.endswith(f"/{name}") and topic.type == kind:
                found[topic.name] = name
    return found


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise ImportError("recordings for Rerun need its package: pip install rerun-sdk") from error
    return rerun


def _fixed_frame(bag: BagReader, products: dict[str, str]) -> str:
    in_fixed = ("keyframes", "views", "predicted/points", "merged/points")
    for message in bag.messages([t for t, name in products.items() if name in in_fixed]):
        return str(message.content.header.frame_id)
    return next(iter(bag.transforms()[0].tree.roots()), "")


class _Logger:
    """What has been logged so far: the entities of images by frame, and what has no pose."""

    def __init__(
        self, rerun: Any, recording: Any, transforms: TransformBuffer, fixed_frame: str
    ) -> None:
        self._rerun, self._recording = rerun, recording
        self._transforms, self._fixed = transforms, fixed_frame
        self.images: dict[str, dict[str, str]] = {}  # frame -> name of the topic -> entity
        self.unplaced: dict[str, int] = {}
        recording.log("/", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        labels = [
            (int(label), label.name.lower(), colour) for label, colour in PROVENANCE_COLOURS.items()
        ]
        recording.log("/", rerun.AnnotationContext(labels), static=True)

    def log_moment(self, messages: list[BagMessage], products: dict[str, str]) -> None:
        """Log the messages of one stamp; clouds of one topic and frame become one."""
        self._at(messages[0].stamp_ns)
        clouds: dict[str, list[NDArray[Any]]] = {}
        for message in messages:
            name, content = products[message.topic], message.content
            frame = content.header.frame_id
            entity = self._entity(message.topic, frame)
            if name.endswith("points"):
                clouds.setdefault(entity, []).append(points_from_cloud(content).reshape(-1))
                self._place(entity, message, frame)
            elif name == "keyframes":
                self._keyframes(entity, content)
            elif name == "views":
                self._log(
                    entity, self._rerun.TextDocument(_table(content), media_type="text/markdown")
                )
            elif name.endswith("camera_info"):
                image = self._entity(f"{message.topic.removesuffix('camera_info')}image", frame)
                self._pinhole(image, content)
                self._place(image, message, frame)
            else:
                self.images.setdefault(frame, {})[name] = entity
                self._log(entity, self._image(name, content))
        for entity, parts in clouds.items():
            self._log(entity, self._points(entity, np.concatenate(parts)))

    def log_transforms(self, bag: BagReader) -> None:
        """Log the axes of every frame that moves, in the fixed frame."""
        axes = self._rerun.Arrows3D(vectors=np.eye(3) * _AXIS_M, colors=_AXIS_COLOURS)
        for message in bag.messages(["/tf"]) if "/tf" in bag.topics else ():
            self._at(message.stamp_ns)
            for transform in message.content.transforms:
                frame = transform.child_frame_id
                entity = self._rerun.new_entity_path(["tf", frame])
                if self._place(entity, message, frame):
                    self._log(entity, axes)

    def _at(self, stamp_ns: int) -> None:
        self._recording.set_time(TIMELINE, timestamp=np.datetime64(stamp_ns, "ns"))

    def _log(self, entity: str, what: Any) -> None:
        self._recording.log(entity, what)

    def _entity(self, topic: str, frame: str) -> str:
        parts = topic.strip("/").split("/")
        below = [] if frame == self._fixed else [frame]
        return str(self._rerun.new_entity_path([*parts, *below]))

    def _place(self, entity: str, message: BagMessage, frame: str) -> bool:
        """Log where a frame is; False, and counted, where TF does not say."""
        if frame == self._fixed:
            return True
        try:
            T = self._transforms.lookup(self._fixed, frame, message.stamp_ns)
        except TransformUnavailable:
            self.unplaced[message.topic] = self.unplaced.get(message.topic, 0) + 1
            return False
        self._log(entity, self._rerun.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3]))
        return True

    def _pinhole(self, entity: str, info: Any) -> None:
        values = camera_info_values(info)
        K_px = np.array(values.K).reshape(3, 3)
        pinhole = self._rerun.Pinhole(
            image_from_camera=K_px, width=values.width, height=values.height
        )
        self._log(entity, pinhole)

    def _keyframes(self, entity: str, poses: Any) -> None:
        pairs = [(pose.position, pose.orientation) for pose in poses.poses]
        T = [pose_from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w)) for p, q in pairs]
        origins, forward = (np.array([pose[:3, k] for pose in T]) for k in (3, 2))
        self._log(entity, self._rerun.Arrows3D(origins=origins, vectors=_AXIS_M * forward))

    def _points(self, entity: str, points: NDArray[Any]) -> Any:
        xyz = np.stack([points[axis] for axis in "xyz"], axis=1)
        seen = np.isfinite(xyz).all(axis=1)
        rgb = points["rgb"][seen]
        # Of imagined points the label matters most, of real ones how they look.
        real = "/observed/" in entity
        colours = np.stack([rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255], axis=1).astype(np.uint8)
        return self._rerun.Points3D(
            xyz[seen],
            colors=colours if real else None,
            class_ids=points["provenance"][seen].astype(np.uint16),
        )

    def _image(self, name: str, message: Any) -> Any:
        if name.endswith("depth/image"):
            depth = np.nan_to_num(depth_m_from_message(message), posinf=0.0, neginf=0.0)
            limits = RELATIVE_DEPTH_RANGE if "relative" in name else DEPTH_RANGE_M
            return self._rerun.DepthImage(depth, meter=1.0, colormap="turbo", depth_range=limits)
        if name.endswith("provenance/image"):
            return self._rerun.SegmentationImage(mono8_from_image(message))
        if name.endswith("confidence/image"):
            return self._rerun.Image(depth_m_from_message(message), color_model="L")
        return self._rerun.Image(rgb_from_message(message).rgb)


def _table(views: Any) -> str:
    """The records of a job as a table in Markdown."""
    scale = "metric" if views.scale.metric else "not metric: no depth, no clouds"
    rows = [
        f"Job {views.job_id}, policy {views.policy}, {scale}",
        "",
        "| slot | measured | corroborated | hallucinated | contradicted | mean confidence |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for view in views.views:
        shares = (
            getattr(view, f"{label}_fraction")
            for label in ("measured", "corroborated", "hallucinated", "contradicted")
        )
        cells = [
            str(view.slot),
            *(f"{share:.0%}" for share in shares),
            f"{view.mean_confidence:.2f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _layout(images: dict[str, dict[str, str]], products: dict[str, str]) -> Any:
    """Clouds and cameras beside a tab per frame with its images, and one with the jobs."""
    import rerun.blueprint as views

    def flat(entities: dict[str, str]) -> Iterator[Any]:
        for name, entity in sorted(entities.items()):
            yield views.Spatial2DView(origin=entity, name=name)

    tabs: list[Any] = [views.Grid(*flat(of), name=frame) for frame, of in sorted(images.items())]
    tabs += [
        views.TextDocumentView(origin=topic, name="jobs")
        for topic, name in products.items()
        if name == "views"
    ]
    in_space = ("points", "keyframes", "color/image")
    shown = [f"+ {topic}/**" for topic, name in products.items() if name.endswith(in_space)]
    return views.Blueprint(
        views.Horizontal(
            views.Spatial3DView(
                origin="/",
                contents=[*shown, "+ /tf/**"],
                name="clouds and cameras",
                background=BACKGROUND,
            ),
            views.Tabs(*tabs, name="images"),
            column_shares=[2, 1],
        ),
        collapse_panels=True,
    )
