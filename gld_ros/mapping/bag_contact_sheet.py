"""The images of a bag as one contact sheet: a row per topic, its messages over the columns."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gld_ros.bags.reader import IMAGE_TYPE, BagReader
from gld_ros.depth_colours import depth_colours
from gld_ros.mapping.provenance_colours import provenance_colours
from gld_ros.messages.depth_images import depth_m_from_message
from gld_ros.messages.images import UnsupportedEncoding, rgb_from_message

_TITLE_PX = 20


def contact_sheet(
    bag: Path, columns: int = 6, cell_width: int = 224, topics: Collection[str] | None = None
) -> NDArray[np.uint8]:
    """RGB image with a row per image topic of a bag, of those in `topics`.

    Depth and provenance are shown in colours. Raises ValueError for a bag without such images.
    """
    rows = []
    with BagReader(bag) as reader:
        for topic in reader.topics_of_type(IMAGE_TYPE):
            if topics is not None and topic.name not in topics:
                continue
            chosen = set(np.linspace(0, topic.num_messages - 1, columns).round().astype(int))
            cells = [
                _cell(topic.name, reader.decode(message.cdr, message.type), cell_width)
                for number, message in enumerate(reader.raw_messages([topic.name]))
                if number in chosen
            ]
            if cells:
                rows.append(_row(topic.name, cells, columns, cell_width))
    if not rows:
        raise ValueError(f"{bag} holds no images")
    return np.concatenate(rows)


def _cell(topic: str, message: Any, width: int) -> NDArray[np.uint8]:
    try:
        rgb = rgb_from_message(message).rgb
        if topic.endswith("provenance/image"):
            rgb = provenance_colours(rgb[..., 0])
    except UnsupportedEncoding:
        rgb = depth_colours(depth_m_from_message(message))
    height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
    return np.asarray(cv2.resize(np.ascontiguousarray(rgb), (width, height)))


def _row(
    title: str, cells: list[NDArray[np.uint8]], columns: int, cell_width: int
) -> NDArray[np.uint8]:
    height = max(len(cell) for cell in cells)
    row = np.zeros((height + _TITLE_PX, columns * cell_width, 3), np.uint8)
    cv2.putText(row, title, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255))
    for column, cell in enumerate(cells):
        left = column * cell_width
        row[_TITLE_PX : _TITLE_PX + len(cell), left : left + cell_width] = cell
    return row
