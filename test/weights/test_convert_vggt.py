"""Published VGGT files become bundles completely or not at all, in both readings of the cascade."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gld_ros.backbones.vggt.config import VggtConfig
from gld_ros.cli.main import main
from gld_ros.decoders.rgb import RgbDecoderConfig
from gld_ros.diffusion.config import DenoiserConfig
from gld_ros.pipeline import NovelViewPipeline, ViewRequest
from gld_ros.weights.convert import UnstoredSizes
from gld_ros.weights.convert import convert as convert_published
from gld_ros.weights.errors import CoverageError, WeightsError
from gld_ros.weights.families import recognise

from .published_layout import write_gld_vggt

CHANNELS = 16
BACKBONE = VggtConfig(
    embed_dim=CHANNELS // 2,
    depth=24,
    num_heads=2,
    image_depth=1,
    image_heads=2,
    tap_layers=(4, 11, 17, 23),
    head_features=8,
    head_out_channels=(4, 4, 8, 8),
    image_size=42,
    mlp_ratio=2.0,
    point_head=True,
    camera_head=True,
    camera_heads=2,
    camera_depth=1,
)
DENOISER = DenoiserConfig(
    channels=CHANNELS,
    hidden=(8, 16),
    depth=(1, 3),
    heads=(1, 1),
    special_tokens=5,
    time_features=4,
)
DECODER = RgbDecoderConfig(
    in_channels=4 * CHANNELS, width=8, depth=1, heads=2, mlp=8, table_hw=(3, 3)
)
SIZES = UnstoredSizes(2, 2, (1, 1), (1, 1))
ENCODER = "facebook/VGGT-1B/model.safetensors"


@pytest.fixture
def official(tmp_path) -> Path:
    """The published layout, in three containers, with random micro weights."""
    return write_gld_vggt(tmp_path / "official", BACKBONE, DECODER, DENOISER, DENOISER, scale=0.1)


@pytest.fixture
def convert(official, tmp_path):
    def run(**options):
        return convert_published(official, tmp_path / "bundle", sizes=SIZES, **options)

    return run


def test_full_variant_keeps_all_head_blocks_and_own_statistics(convert, official):
    conversion = convert()
    bundle, config = conversion.bundle, conversion.bundle.config
    assert config.non_commercial
    assert "CC-BY-NC-4.0" in config.licence
    assert config.denoisers["cascade"].config.depth == (1, 3)
    assert config.denoisers["cascade"].config.prope_image_hw is None
    assert config.denoisers["cascade"].config.special_tokens == 5
    assert config.num_euler_points == 100
    cascade = torch.load(official / "checkpoints/vggt_cascade.pt", weights_only=True)
    loaded = bundle.load_module("cascade").state_dict()
    assert loaded.keys() == cascade.keys()
    assert all(torch.equal(loaded[name], values) for name, values in cascade.items())
    assert bundle.statistics(0).special.mean.tolist() == [3.0] * CHANNELS
    assert bundle.statistics(1).special.mean.tolist() == [4.0] * CHANNELS
    assert "all 3 head blocks" in " ".join(conversion.notes)


def test_time_shift_is_that_of_the_released_evaluation(convert):
    # 37 x 37 patches of 518 pixels, 8 views: for 2048 channels this is 74.
    shift = convert().bundle.config.denoisers["level1"].time_shift
    assert shift == pytest.approx(74.0 * (CHANNELS / 2048) ** 0.5)


def test_reference_variant_computes_what_the_released_evaluation_computes(convert, official):
    conversion = convert(variant="reference")
    config = conversion.bundle.config
    assert config.denoisers["level1"].config.depth == (1, 3)
    assert config.denoisers["cascade"].config.depth == (1, 2)
    cascade = torch.load(official / "checkpoints/vggt_cascade.pt", weights_only=True)
    loaded = conversion.bundle.load_module("cascade").state_dict()
    assert all(torch.equal(values, cascade[name]) for name, values in loaded.items())
    assert not any(name.startswith("blocks.3.") for name in loaded)
    assert conversion.bundle.statistics(0).special.mean.tolist() == [4.0] * CHANNELS
    assert "first 2 of 3 head blocks" in " ".join(conversion.notes)


def test_statistics_of_level_0_specials_can_be_chosen(convert):
    bundle = convert(special_statistics="level1").bundle
    assert bundle.config.denoisers["cascade"].config.depth == (1, 3)
    assert bundle.statistics(0).special.mean.tolist() == [4.0] * CHANNELS


def test_sizes_are_read_off_the_tensors_and_unused_heads_left_out(convert):
    conversion = convert()
    config = conversion.bundle.config.backbone.config
    assert (config.embed_dim, config.depth, config.num_heads) == (8, 24, 2)
    assert (config.image_size, config.mlp_ratio, config.num_registers) == (42, 2.0, 4)
    assert not config.point_head
    assert config.camera_head
    assert "point_head, track_head are not used" in " ".join(conversion.notes)


def test_the_model_file_alone_keeps_point_and_camera_heads(official, tmp_path):
    bundle = convert_published(official / ENCODER, tmp_path / "bundle", sizes=SIZES).bundle
    assert bundle.config.backbone.config == BACKBONE
    assert bundle.config.non_commercial
    assert bundle.config.module_names == ("backbone",)


def edit(path: Path, change) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda state: state.pop("special_output_proj.bias"), "special_output_proj.bias"),
        (lambda state: state.update({"blocks.1.extra": torch.zeros(1)}), "blocks.1.extra"),
        (
            lambda state: state.update(special_pos_embed_x=torch.zeros(1, 4, 16)),
            "special_pos_embed",
        ),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_every_fault_names_its_tensor(convert, official, tmp_path, change, name):
    edit(official / "checkpoints/vggt_cascade.pt", change)
    with pytest.raises(CoverageError, match=name):
        convert()
    assert not (tmp_path / "bundle").exists()


def test_missing_files_are_all_listed_with_the_licence_of_the_encoder(convert, official):
    (official / ENCODER).unlink()
    (official / "model_stats/vggt/special_stats_level0.pt").unlink()
    with pytest.raises(WeightsError, match=r"(?s)encoder.*special_stats_level0.*non-commercial"):
        convert()


def test_wrong_options_say_what_is_allowed(convert):
    with pytest.raises(ValueError, match="use 'full' or 'reference'"):
        convert(variant="half")
    with pytest.raises(ValueError, match="use 'own' or 'level1'"):
        convert(special_statistics="both")


def test_files_are_recognised(official):
    assert recognise(official) == "gld-vggt"
    assert recognise(official / ENCODER) == "vggt"
    (official / "checkpoints/da3_level1.pt").touch()
    with pytest.raises(WeightsError, match="gld-da3 and gld-vggt; say which with --kind"):
        recognise(official)
    with pytest.raises(WeightsError, match="none of the files"):
        recognise(official / "checkpoints")


def test_converted_by_command_and_run_end_to_end(official, tmp_path, capsys):
    heads = ["camera=2", "rgb_decoder=2", "level1=1,1", "cascade=1,1"]
    options = [word for entry in heads for word in ("--heads", entry)]
    folder = tmp_path / "bundle"
    arguments = ["weights", "convert", str(official), str(folder), "--variant", "reference"]
    assert main([*arguments, *options]) == 0
    assert "NON-COMMERCIAL" in capsys.readouterr().out
    K = np.array([[40.0, 0, 20.5], [0, 40, 13.5], [0, 0, 1]])
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 0.5
    request = ViewRequest(
        images=[np.full((28, 42, 3), 90, np.uint8)],
        K_px_ref=K[None],
        T_world_cam_ref=poses[:1],
        K_px_target=K[None],
        T_world_cam_target=poses[1:],
        target_hw=[(28, 42)],
        num_steps=2,
        seed=1,
        model_hw=(28, 42),
    )
    views = NovelViewPipeline.from_pretrained(folder, device="cpu")(request)
    assert np.isfinite(views.targets[0].rgb).all()


def test_an_option_of_another_family_is_refused(official, tmp_path, capsys):
    arguments = ["weights", "convert", str(official / ENCODER), str(tmp_path / "bundle")]
    assert main([*arguments, "--variant", "full"]) == 1
    assert "--variant: not an option of vggt files" in capsys.readouterr().err
