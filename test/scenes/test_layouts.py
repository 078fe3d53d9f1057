"""The preprocessed layouts of four datasets, on tiny copies made here."""

import numpy as np
import pytest
from PIL import Image

from gld_ros.scenes.datasets import KINDS, open_recordings
from gld_ros.scenes.layouts import LAYOUTS, open_dataset
from gld_ros.scenes.picking import RecordedScenes
from gld_ros.scenes.recording import RecordingError
from gld_ros.scenes.sample import validate_sample

K_PX = np.array([[40.0, 0.0, 19.5], [0.0, 40.0, 14.5], [0.0, 0.0, 1.0]])


def pose(i):
    T = np.eye(4)
    T[0, 3] = 0.1 * i
    return T


def write_frame(folder, image, camera, i, intrinsics="intrinsics", extrinsics="pose", K_px=K_PX):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.full((30, 40, 3), 10 * i, dtype=np.uint8)
    Image.fromarray(pixels).save(folder / image)
    np.savez(folder / camera, **{intrinsics: K_px, extrinsics: pose(i)})


def make_dataset(name, root, frames=6):
    for i in range(frames):
        if name == "dl3dv":
            folder = root / "1K" / "abc" / "images_4"
            write_frame(folder, f"frame_{i:05d}.png", f"frame_{i:05d}.npz", i, "intrinsic")
            (folder.parent / "transforms.json").write_text("{}")
        elif name == "re10k":
            # Time stamps of different lengths: order is by number.
            stamp = str(95_000_000 + 1_000_000 * i)
            write_frame(root / "00ab", f"{stamp}.png", f"{stamp}_cam.npz", i)
        elif name == "hypersim":
            stem = f"frame.{i:04d}."
            write_frame(root / "ai_001" / "cam_00", f"{stem}rgb.png", f"{stem}cam.npz", i)
        else:
            folder = root / "office" / "Easy" / "P000"
            names = (f"{i:06d}_left_rgb.png", f"{i:06d}_left_cam.npz")
            write_frame(folder, *names, i, "camera_intrinsics", "camera_pose")


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_layout_gives_frames_in_order_with_their_cameras(name, tmp_path):
    make_dataset(name, tmp_path)
    (recording,) = open_recordings(name, tmp_path)
    assert len(recording) == 6
    assert recording.gap_range == LAYOUTS[name].gap_range
    assert not recording.metric
    for i in (0, 5):
        frame = recording.load(i)
        assert frame.rgb[0, 0, 0] == 10 * i
        np.testing.assert_allclose(frame.T_world_cam, pose(i))
        np.testing.assert_allclose(frame.K_px, K_PX)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_layout_gives_valid_samples(name, tmp_path):
    make_dataset(name, tmp_path)
    sample = RecordedScenes(open_dataset(name, tmp_path), 4, (14, 28)).sample(3)
    validate_sample(sample)
    assert sample["images"].shape == (4, 3, 14, 28)
    assert sample["scene_id"].startswith(f"{name}/")


def test_evaluation_release_of_dl3dv_has_one_more_folder(tmp_path):
    make_dataset("dl3dv", tmp_path / "x")
    scene = tmp_path / "x" / "1K" / "abc"
    inner = tmp_path / "y" / "abc" / "nerfstudio"
    inner.parent.mkdir(parents=True)
    scene.rename(inner)
    assert len(open_dataset("dl3dv", tmp_path)) == 1


def test_dl3dv_without_transforms_is_no_scene(tmp_path):
    make_dataset("dl3dv", tmp_path)
    (tmp_path / "1K" / "abc" / "transforms.json").unlink()
    with pytest.raises(RecordingError, match="holds no dl3dv scene"):
        open_dataset("dl3dv", tmp_path)


def test_unusable_cameras_are_left_out_and_counted(tmp_path):
    make_dataset("re10k", tmp_path, frames=7)
    cameras = sorted((tmp_path / "00ab").glob("*_cam.npz"))
    cameras[0].unlink()
    cameras[1].write_bytes(b"no archive")
    np.savez(cameras[2], intrinsics=np.zeros((3, 3)), pose=np.eye(4))
    np.savez(cameras[3], intrinsics=K_PX, pose=np.full((4, 4), np.nan))
    np.savez(cameras[4], pose=np.eye(4))
    (recording,) = open_dataset("re10k", tmp_path)
    assert len(recording) == 2
    assert recording.dropped == {
        "no camera file": 1,
        "damaged camera file": 2,
        "unusable intrinsics": 1,
        "unusable pose": 1,
    }


def test_a_camera_file_that_carries_code_is_not_run(tmp_path):
    make_dataset("re10k", tmp_path, frames=3)
    victim = sorted((tmp_path / "00ab").glob("*_cam.npz"))[0]
    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    np.savez(victim, intrinsics=np.array([Attack()], dtype=object), pose=np.eye(4))
    (recording,) = open_dataset("re10k", tmp_path)
    assert recording.dropped == {"damaged camera file": 1}
    assert not ran.exists()


def test_unknown_kinds_are_refused_with_the_list(tmp_path):
    with pytest.raises(ValueError, match=r"unknown kind of recordings 'kitti'; use one of folders"):
        open_recordings("kitti", tmp_path)
    with pytest.raises(ValueError, match="unknown dataset layout"):
        open_dataset("kitti", tmp_path)
    assert set(LAYOUTS) < set(KINDS)
