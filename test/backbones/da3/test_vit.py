import pytest
import torch
import torch.nn.functional as F

from gld_ros.backbones.da3.reference_view import (
    reference_first_order,
    reorder_views,
    select_reference_view,
)
from gld_ros.backbones.da3.rope import local_rotary
from gld_ros.backbones.da3.vit import Da3Backbone, bicubic_resampling
from gld_ros.backbones.rotary import rotate

LEVELS = range(4)


def random_images(views, hw=(28, 42), scenes=1, seed=1):
    return torch.rand(scenes, views, 3, *hw, generator=torch.Generator().manual_seed(seed))


def assert_levels_equal(actual, expected, atol=1e-5):
    assert actual.keys() == expected.keys()
    for level in actual:
        for part in ("patches", "special"):
            torch.testing.assert_close(
                getattr(actual[level], part), getattr(expected[level], part), rtol=1e-4, atol=atol
            )


def test_levels_have_one_camera_token_and_both_halves(micro, micro_config):
    levels = micro.encode_levels(random_images(3, scenes=2), LEVELS)
    for level in LEVELS:
        assert levels[level].patches.shape == (2, 3, 6, micro_config.channels)
        assert levels[level].special.shape == (2, 3, 1, micro_config.channels)


def test_permuting_source_views_permutes_their_features(micro):
    images, order = random_images(4), [0, 3, 1, 2]
    levels = micro.encode_levels(images, LEVELS)
    permuted = micro.encode_levels(images[:, order], LEVELS)
    for level in LEVELS:
        torch.testing.assert_close(
            permuted[level].patches, levels[level].patches[:, order], rtol=1e-4, atol=1e-5
        )


def test_the_reference_view_is_special(micro):
    images = random_images(2)
    levels = micro.encode_levels(images, [3])
    swapped = micro.encode_levels(images[:, [1, 0]], [3])
    assert (swapped[3].patches[:, [1, 0]] - levels[3].patches).abs().max() > 1e-3


def test_views_influence_each_other_only_through_global_blocks(micro):
    images = random_images(2)
    changed = images.clone()
    changed[:, 1] = 1 - changed[:, 1]
    before = micro.encode_levels(images, LEVELS)
    after = micro.encode_levels(changed, LEVELS)
    # Level 0 taps a local block in this model, level 1 a global one.
    torch.testing.assert_close(after[0].patches[:, 0], before[0].patches[:, 0])
    assert (after[1].patches[:, 0] - before[1].patches[:, 0]).abs().max() > 1e-3


def test_scenes_of_a_batch_are_independent(micro):
    images = random_images(3, scenes=2)
    both = micro.encode_levels(images, LEVELS)
    alone = micro.encode_levels(images[1:], LEVELS)
    for level in LEVELS:
        torch.testing.assert_close(
            both[level].patches[1:], alone[level].patches, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("start", LEVELS)
def test_propagation_equals_the_full_pass(micro, start):
    full = micro.encode_levels(random_images(3), LEVELS)
    propagated = micro.propagate(full[start], start, (2, 3))
    assert_levels_equal(propagated, {level: full[level] for level in range(start, 4)})


def test_encoding_stops_after_the_last_wanted_block(micro, micro_config):
    images = random_images(2)
    full = micro.encode_levels(images, LEVELS)
    for block in micro.backbone.blocks[micro_config.tap_layers[1] + 1 :]:
        block.register_forward_pre_hook(lambda *_: pytest.fail("a block too many was run"))
    assert_levels_equal(micro.encode_levels(images, [1]), {1: full[1]})


def test_known_cameras_change_the_features(micro, micro_config):
    images = random_images(2)
    learned = micro.backbone.learned_camera_tokens(1, 2)
    unposed = micro.encode_levels(images, [3])
    assert_levels_equal(micro.encode_levels(images, [3], camera_tokens=learned), unposed)
    posed = micro.encode_levels(images, [3], camera_tokens=learned.flip(-1))
    assert (posed[3].patches - unposed[3].patches).abs().max() > 1e-3


def test_chosen_reference_gives_what_putting_it_first_gives(micro):
    images = random_images(5)
    levels, reference = micro.backbone(images, reference_strategy="middle")
    assert reference.tolist() == [2]
    order = [2, 0, 1, 3, 4]
    first, _ = micro.backbone(images[:, order])
    for level in LEVELS:
        torch.testing.assert_close(
            levels[level].patches[:, order], first[level].patches, rtol=1e-4, atol=1e-5
        )


def test_two_views_keep_their_reference(micro):
    _, reference = micro.backbone(random_images(2), reference_strategy="middle")
    assert reference.tolist() == [0]


def test_reordering_is_undone_by_its_inverse():
    order = reference_first_order(torch.tensor([2, 0]), 4)
    assert order.tolist() == [[2, 0, 1, 3], [0, 1, 2, 3]]
    x = torch.rand(2, 4, 3)
    torch.testing.assert_close(reorder_views(reorder_views(x, order), order.argsort(1)), x)


def test_saddle_sim_range_takes_the_view_most_unlike_one_and_like_another():
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.05], [0.0, 1.0], [-0.9, 0.1]]])
    # View 0 is almost view 1 and almost the opposite of view 3.
    assert select_reference_view(tokens, "saddle_sim_range").tolist() == [0]


def test_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match=r"'best'.*saddle_balanced"):
        select_reference_view(torch.rand(1, 3, 4), "best")


def test_attention_of_rotated_tokens_depends_on_their_offset_alone():
    table = local_rotary((3, 5), 8, torch.device("cpu"))
    q = rotate(torch.rand(8).expand(1, 16, 1, 8), table)[0, 1:, 0].unflatten(0, (3, 5))
    k = rotate(torch.rand(8).expand(1, 16, 1, 8), table)[0, 1:, 0].unflatten(0, (3, 5))
    products = [q[r, c] @ k[r + 1, c + 2] for r in range(2) for c in range(3)]
    torch.testing.assert_close(torch.stack(products), products[0].expand(6), rtol=1e-5, atol=1e-5)


def test_the_rotation_keeps_length():
    table = local_rotary((2, 2), 8, torch.device("cpu"))
    x = torch.rand(3, 5, 2, 8)
    torch.testing.assert_close(rotate(x, table).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize(("side", "hw"), [(37, (20, 36)), (8, (6, 8)), (3, (2, 5)), (37, (1, 74))])
def test_positions_are_resampled_by_scale_factor(side, hw):
    table = torch.rand(1, 4, side, side)
    expected = F.interpolate(
        table, scale_factor=((hw[0] + 0.1) / side, (hw[1] + 0.1) / side), mode="bicubic"
    )
    device = torch.device("cpu")
    rows, columns = (bicubic_resampling(side, size, device) for size in hw)
    torch.testing.assert_close(rows @ table @ columns.mT, expected, rtol=1e-4, atol=1e-5)


def test_positions_follow_a_changed_table(micro):
    images = random_images(1)
    before = micro.encode_levels(images, [0])[0].patches
    with torch.no_grad():
        micro.backbone.pos_embed.data.add_(torch.randn_like(micro.backbone.pos_embed))
    assert (micro.encode_levels(images, [0])[0].patches - before).abs().max() > 1e-3


def test_tables_stay_out_of_the_checkpoint(micro):
    names = set(micro.state_dict())
    micro(random_images(2))
    assert set(micro.state_dict()) == names
    assert not list(micro.buffers())


def test_model_trains_after_tables_were_made_in_inference_mode(micro_config):
    backbone = Da3Backbone(micro_config)
    images = random_images(2, hw=(56, 14))
    with torch.inference_mode():
        backbone(images)
    levels, _ = backbone(images)
    sum(level.patches.square().sum() for level in levels.values()).backward()
    unused = {n for n, p in backbone.named_parameters() if p.grad is None}
    assert unused == {"norm.weight", "norm.bias"}  # applied by decoder_input, not by the blocks
