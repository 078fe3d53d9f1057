"""Renders the images of README.md and the documents into docs/images.

Run: `python tools/readme_images.py`. Shows the demonstration's procedural room, or with `--bag`
any bag with images, CameraInfo and TF: a still at a withheld frame (`still.jpg`), a video along the
path (`fly.webp`) and the legend of provenance (`provenance.png`). Depth images are not used:
everything is made from colour images and poses.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gld_ros.bags.cameras import bag_cameras, bag_fixed_frame
from gld_ros.bags.reader import BagReader
from gld_ros.demo.flight import FlightOptions, FlownView, fly
from gld_ros.demo.tour import room_tour
from gld_ros.demo.video import shares, video_frame
from gld_ros.depth_colours import depth_colours
from gld_ros.evaluation.held_out import recording_kind
from gld_ros.evaluation.recordings import WithheldFrame, run_recording
from gld_ros.mapping.model import load_model
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.provenance_colours import PROVENANCE_COLOURS, provenance_colours
from gld_ros.ros.parameters.files import load_snapshot
from gld_ros.scenes.datasets import open_recordings

STILL_HW, NUM_WITHHELD = (480, 640), 4
PANEL_WIDTH, GAP, CAPTION_HEIGHT = 420, 8, 34
VIDEO_WIDTH, VIDEO_RATE_HZ = 420, 10.0  # of each of the two images side by side
INK, PAPER = (20, 20, 20), (255, 255, 255)
LEGEND = (
    (Provenance.MEASURED, "measured", "seen by cameras that agree on its depth"),
    (Provenance.COMPLETED, "completed", "real image; depth by the model, aligned"),
    (Provenance.CORROBORATED, "corroborated", "imagined; a real image shows it, too"),
    (Provenance.HALLUCINATED, "hallucinated", "imagined; no camera looked there"),
    (Provenance.CONTRADICTED, "contradicted", "imagined; a camera looked through it"),
    (Provenance.UNKNOWN, "no depth", "only a colour; no point is published"),
)

RgbImage = NDArray[np.uint8]


def main() -> None:
    """Render what the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bag", type=Path, help="default: the demonstration's room")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    legend().save(args.out / "provenance.png", optimize=True)
    recording = args.bag or room_tour(Path("out/images/tour"))
    still(recording).save(args.out / "still.jpg", quality=86)
    write_film(flown_views(recording), args.out / "fly.webp")


def still(recording: Path) -> Image.Image:
    """The first withheld frame of a recording and what gld_ros makes in its place."""
    parameters = load_snapshot(None, ["depth.source=stereo"]).session
    (opened,) = open_recordings(recording_kind(recording), recording)
    run = run_recording(
        opened, load_model(parameters), parameters, NUM_WITHHELD, largest_hw=STILL_HW
    )
    return still_panels(run.withheld[0])


def still_panels(frame: WithheldFrame) -> Image.Image:
    """The panels of one withheld frame, two rows of three."""
    if frame.depth_m is None:
        raise ValueError("no metric depth was published at this frame")
    near_m, far_m = np.nanpercentile(frame.depth_m, (2, 98))
    panels = [
        panel(frame.images["copy nearest"], "1  nearest camera image"),
        panel(frame.images["composite"], "2  gld_ros, at a new pose"),
        panel(frame.true_image, "3  truth there, hidden from gld_ros"),
        panel(depth_colours(frame.depth_m), f"depth of 2: red {near_m:.1f} m, blue {far_m:.1f} m"),
        panel(provenance_colours(frame.provenance), "provenance of 2: what is real"),
        legend(PANEL_WIDTH, shares(frame.provenance)),
    ]
    height = max(one.height for one in panels)
    sheet = Image.new("RGB", (3 * PANEL_WIDTH + 2 * GAP, 2 * height + GAP), PAPER)
    for i, one in enumerate(panels):
        sheet.paste(one, (i % 3 * (PANEL_WIDTH + GAP), i // 3 * (height + GAP)))
    return sheet


def panel(image: RgbImage, caption: str) -> Image.Image:
    """An image (H, W, 3), PANEL_WIDTH wide, under its caption."""
    height = round(image.shape[0] * PANEL_WIDTH / image.shape[1])
    sheet = Image.new("RGB", (PANEL_WIDTH, CAPTION_HEIGHT + height), PAPER)
    sheet.paste(Image.fromarray(image).resize((PANEL_WIDTH, height)), (0, CAPTION_HEIGHT))
    ImageDraw.Draw(sheet).text((2, 4), caption, INK, ImageFont.load_default(23))
    return sheet


def legend(width: int = 640, of_view: dict[str, float] | None = None) -> Image.Image:
    """What the colours of provenance mean; with shares of a target view, of its labels alone."""
    row_height, large, small = 56, ImageFont.load_default(23), ImageFont.load_default(19)
    rows = [row for row in LEGEND if of_view is None or row[1] in of_view]
    sheet = Image.new("RGB", (width, row_height * len(rows) + 6), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (label, name, meaning) in enumerate(rows):
        top = 6 + i * row_height
        draw.rectangle((4, top, 34, top + 38), PROVENANCE_COLOURS[label], INK)
        share = f"  {of_view[name]:.0%}" if of_view else ""
        draw.text((46, top - 6), name + share, INK, large)
        draw.text((46, top + 20), meaning, INK, small)
    return sheet


def flown_views(bag: Path) -> Sequence[FlownView]:
    """The views of `gld-ros fly BAG --set depth.source=stereo`."""
    with BagReader(bag) as reader:
        overrides = ["depth.source=stereo", "depth.min_confidence=0.0"]
        overrides.append(f"fixed_frame={bag_fixed_frame(reader)}")
        cameras = [camera.name for camera in bag_cameras(reader)]
        parameters = load_snapshot(None, overrides, cameras).session
        flight = fly(reader, load_model(parameters), parameters, FlightOptions())
    if flight.failures:
        raise ValueError(f"views are missing: {'; '.join(flight.failures)}")
    return flight.views


def write_film(views: Sequence[FlownView], path: Path) -> None:
    """Write the views beside themselves tinted, small enough for a page, as a WebP that repeats."""
    frames = []
    for view in views:
        hw = round(view.color.shape[0] * VIDEO_WIDTH / view.color.shape[1]), VIDEO_WIDTH
        color = cv2.resize(view.color, hw[::-1], interpolation=cv2.INTER_AREA)
        labels = cv2.resize(view.provenance, hw[::-1], interpolation=cv2.INTER_NEAREST)
        frames.append(Image.fromarray(video_frame(color, labels)))
    duration_ms = round(1000 / VIDEO_RATE_HZ)
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=duration_ms,
        loop=0,
        quality=55,
        method=6,
    )


if __name__ == "__main__":
    main()
