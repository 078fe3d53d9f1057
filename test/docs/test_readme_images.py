"""The images of README: what the legend explains, and the panels of a still."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gld_ros.evaluation.recordings import WithheldFrame
from gld_ros.mapping.provenance import Provenance
from gld_ros.mapping.provenance_colours import PROVENANCE_COLOURS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images():
    spec = importlib.util.spec_from_file_location("readme_images", ROOT / "tools/readme_images.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def colours_of(image):
    return {tuple(int(v) for v in rgb) for rgb in np.asarray(image).reshape(-1, 3)}


def test_the_legend_explains_every_label(images):
    assert {label for label, _, _ in images.LEGEND} == set(Provenance)
    assert set(PROVENANCE_COLOURS.values()) <= colours_of(images.legend())


def test_the_legend_in_the_documents_is_the_one_that_is_drawn(images):
    stored = Image.open(ROOT / "docs/images/provenance.png").convert("RGB")
    assert stored.size == images.legend().size
    assert set(PROVENANCE_COLOURS.values()) <= colours_of(stored)


def test_readme_names_every_label(images):
    table = (ROOT / "README.md").read_text().split("| label |")[1].split("\n\n")[0]
    assert [name for _, name, _ in images.LEGEND if f"| {name} |" not in table] == []


def withheld(depth_m, labels):
    image = np.full((*labels.shape, 3), 90, np.uint8)
    return WithheldFrame(
        stamp_ns=0,
        true_image=image,
        true_depth_m=None,
        images={"copy nearest": image, "composite": image},
        depth_m=depth_m,
        confidence=None,
        provenance=labels,
        seen=np.zeros(labels.shape, bool),
        hidden=np.zeros(labels.shape, bool),
    )


def test_a_still_shows_the_labels_of_its_view_and_their_colours(images):
    labels = np.full((12, 16), Provenance.MEASURED, np.uint8)
    labels[:3] = Provenance.HALLUCINATED
    depth_m = np.linspace(1, 3, labels.size).reshape(labels.shape).astype(np.float32)
    still = images.still_panels(withheld(depth_m, labels))
    assert still.width == 3 * images.PANEL_WIDTH + 2 * images.GAP
    found = colours_of(still)
    assert PROVENANCE_COLOURS[Provenance.HALLUCINATED] in found
    assert PROVENANCE_COLOURS[Provenance.COMPLETED] not in found  # a target view has none


def test_a_still_without_depth_is_refused(images):
    with pytest.raises(ValueError, match="no metric depth"):
        images.still_panels(withheld(None, np.zeros((12, 16), np.uint8)))
