"""What is known of a bundle before a download is what the conversion makes of the files."""

from dataclasses import replace

import pytest
import torch

from gld_ros.decoders.rgb import RgbDecoder
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.weights import unfetched
from gld_ros.weights.backbone_kinds import backbone_kind
from gld_ros.weights.catalog import CATALOG
from gld_ros.weights.convert import convert
from gld_ros.weights.families import FAMILIES
from gld_ros.weights.published_diffusion import infer_denoiser_config, infer_rgb_decoder_config
from gld_ros.weights.unfetched import PUBLISHED, PublishedSizes, UnfetchedBundle
from gld_ros.weights.without_storage import without_storage

from . import test_convert_vggt as vggt
from .conftest import CASCADE, DA3, LEVEL1, RGB_DECODER, SIZES
from .published_layout import write_gld_vggt


@pytest.mark.parametrize("variant", [None, "reference"])
@pytest.mark.parametrize("kind", ["gld-da3", "gld-vggt"])
def test_it_has_the_config_of_the_converted_bundle(kind, variant, published, tmp_path, monkeypatch):
    if kind == "gld-da3":
        if variant:
            pytest.skip("this family has no variants")
        root, heads = published, SIZES
        sizes = PublishedSizes(DA3, RGB_DECODER, {"level1": LEVEL1, "cascade": CASCADE})
    else:
        micro = vggt.BACKBONE, vggt.DECODER, vggt.DENOISER, vggt.DENOISER
        root, heads = write_gld_vggt(tmp_path / "official", *micro), vggt.SIZES
        sizes = PublishedSizes(
            replace(vggt.BACKBONE, point_head=False),
            vggt.DECODER,
            {"level1": vggt.DENOISER, "cascade": replace(vggt.DENOISER, source_conditioned=True)},
        )
    monkeypatch.setitem(PUBLISHED, kind, sizes)
    made = convert(
        root, tmp_path / "bundle", kind=kind, variant=variant, dtype=torch.bfloat16, sizes=heads
    ).bundle
    known = UnfetchedBundle(CATALOG[kind], variant=variant, dtype="bfloat16")
    plain = {"files": {}, "training_notes": ""}
    assert replace(known.config, **plain) == replace(made.config, **plain)
    assert known.parameter_count() == made.parameter_count()
    known_bytes = sum(record.size_bytes for record in known.config.files.values())
    made_bytes = sum(made.config.files[name].size_bytes for name in known.config.files)
    assert known_bytes == pytest.approx(made_bytes, rel=0.5)  # headers weigh in micro files


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_published_sizes_are_what_is_read_off_tensors_of_them(kind):
    sizes, family = PUBLISHED[kind], FAMILIES[kind]
    with without_storage():
        backbone = backbone_kind(family.backbone).build(sizes.backbone).state_dict()
        denoisers = {part: Denoiser(c).state_dict() for part, c in sizes.denoisers.items()}
        decoder = sizes.rgb_decoder and RgbDecoder(sizes.rgb_decoder).state_dict()
    assert family.infer(backbone, camera_heads=16) == sizes.backbone
    for part, tensors in denoisers.items():
        found = infer_denoiser_config(tensors, heads=(16, 16), cascade=part == "cascade")
        assert found == sizes.denoisers[part]
    if decoder:
        assert infer_rgb_decoder_config(decoder, heads=16) == sizes.rgb_decoder


def test_it_is_as_large_as_the_catalog_says():
    for name, least_of_download in (("gld-da3", 0.85), ("gld-vggt", 0.9), ("da3-base", 0.9)):
        config = UnfetchedBundle(CATALOG[name]).config
        size_gb = sum(record.size_bytes for record in config.files.values()) / 1e9
        assert least_of_download < size_gb / CATALOG[name].download_gb <= 1.01


def test_its_weights_cannot_be_loaded():
    with pytest.raises((OSError, ValueError), match="backbone"):
        unfetched.UnfetchedBundle(CATALOG["da3-base"]).load_module("backbone")
