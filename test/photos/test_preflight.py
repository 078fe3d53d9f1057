"""Photos that do not fit into memory together are refused before the network sees them."""

import re
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import gld_ros
from gld_ros.mapping import memory_preflight
from gld_ros.memory_estimate import forward_bound, forward_estimate
from gld_ros.photos.preflight import require_memory

SIDE_PX = 280
MIB = 2**20


@pytest.fixture(scope="module")
def network(da3_bundle):
    return gld_ros.DepthAnything3.from_pretrained(da3_bundle, device="cpu")


@pytest.fixture(scope="module")
def vggt(vggt_bundle):
    return gld_ros.Vggt.from_pretrained(vggt_bundle, device="cpu")


@pytest.fixture
def free_memory(monkeypatch, tmp_path):
    """Make this machine one with so many free bytes."""
    monkeypatch.setattr(memory_preflight, "CGROUP", tmp_path / "no cgroup")
    monkeypatch.setattr(memory_preflight, "MEMINFO", tmp_path / "meminfo")

    def set_free(num_bytes):
        text = f"MemAvailable: {num_bytes // 1024} kB\n"
        (tmp_path / "meminfo").write_text(text, encoding="utf-8")

    return set_free


@pytest.fixture
def seen(network, vggt):
    """How many views each call of a network got."""
    counts = []
    hooks = [
        one.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
        for one in (network, vggt)
    ]
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", ["network", "vggt"])
def test_too_many_photos_are_refused_unseen(kind, request, room, free_memory, seen):
    free_memory(64 * MIB)
    with pytest.raises(ValueError, match=r"0\.06 GiB of memory are free") as refusal:
        gld_ros.reconstruct(room.images * 3, request.getfixturevalue(kind), longest_side_px=SIDE_PX)
    assert str(refusal.value).startswith("12 photos at 280x210 px need about 0.")
    assert "give at most" in str(refusal.value)
    assert seen == []


def test_files_are_refused_before_any_is_decoded(network, room, free_memory, tmp_path):
    for number, rgb in enumerate(room.images * 3):
        path = tmp_path / f"{number:02}.jpg"
        Image.fromarray(rgb).save(path)
        path.write_bytes(path.read_bytes()[:-1500])  # decoding it would say so
    free_memory(64 * MIB)
    with pytest.raises(ValueError, match=r"^12 photos at 280x210 px need about 0"):
        gld_ros.reconstruct(tmp_path, network, longest_side_px=SIDE_PX)


def test_decoded_files_are_not_kept(network, free_memory, tmp_path):
    for number in range(6):
        Image.new("RGB", (4000, 3000)).save(tmp_path / f"{number}.jpg")
    free_memory(2048 * MIB)
    tracemalloc.start()
    try:
        gld_ros.reconstruct(tmp_path, network, longest_side_px=56)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * 4000 * 3000 * 3  # six would be kept; decoding one takes its size thrice


def test_photos_that_fit_are_reconstructed(network, room, free_memory, seen):
    free_memory(1024 * MIB)
    gld_ros.reconstruct(room.images[:2], network, longest_side_px=SIDE_PX)
    assert seen == [2]


def test_as_many_photos_as_advised_fit_and_no_more(network, free_memory):
    free_memory(256 * MIB)
    sizes = [(240, 320)] * 100
    with pytest.raises(ValueError, match="give at most") as refusal:
        require_memory(network, sizes, SIDE_PX)
    advice = re.search(r"at most (\d+) of them, such as one of every (\d+)", str(refusal.value))
    most, every = int(advice[1]), int(advice[2])
    assert 0 < len(sizes[::every]) <= most
    require_memory(network, sizes[:most], SIDE_PX)
    with pytest.raises(ValueError, match=f"^{most + 1} photos"):
        require_memory(network, sizes[: most + 1], SIDE_PX)


def test_the_advised_size_fits(network, free_memory):
    free_memory(640 * MIB)
    sizes = [(240, 320)] * 16
    with pytest.raises(ValueError, match="longest_side_px=") as refusal:
        require_memory(network, sizes, 2 * SIDE_PX)
    side_px = int(re.search(r"longest_side_px=(\d+) \(--size\)", str(refusal.value))[1])
    assert SIDE_PX <= side_px < 2 * SIDE_PX
    require_memory(network, sizes, side_px)


def test_one_photo_that_does_not_fit_is_no_reason_to_give_fewer(network, free_memory):
    free_memory(MIB)
    with pytest.raises(ValueError, match=r"^1 photo at .* not even one fits"):
        gld_ros.reconstruct(np.zeros((240, 320, 3), np.uint8), network, longest_side_px=SIDE_PX)


def test_a_system_that_does_not_tell_its_free_memory_refuses_nothing(
    network, room, monkeypatch, tmp_path
):
    monkeypatch.setattr(memory_preflight, "MEMINFO", tmp_path / "nothing")
    assert gld_ros.reconstruct(room.images[0], network).depth.shape[0] == 1


@pytest.mark.parametrize("kind", ["network", "vggt"])
@pytest.mark.parametrize(("num_views", "image_hw"), [(1, (28, 42)), (20, (210, 280))])
def test_the_quick_bound_is_above_the_estimate(kind, num_views, image_hw, request):
    one = request.getfixturevalue(kind)
    assert forward_bound(one, num_views, image_hw) > forward_estimate(one, num_views, image_hw)
