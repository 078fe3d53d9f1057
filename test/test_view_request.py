from dataclasses import replace

import numpy as np
import pytest

from gld_ros.view_request import NovelViews, View, ViewRequest

K_PX = np.array([[20.0, 0, 7.5], [0, 20.0, 5.5], [0, 0, 1]])


def request(**changes):
    good = {
        "images": [np.zeros((12, 16, 3), np.uint8)] * 2,
        "K_px_ref": np.stack([K_PX] * 2),
        "T_world_cam_ref": np.stack([np.eye(4)] * 2),
        "K_px_target": np.stack([K_PX]),
        "T_world_cam_target": np.eye(4)[None],
        "target_hw": [(12, 16)],
    }
    return ViewRequest(**(good | changes))


def view(**changes):
    good = View(
        rgb=np.zeros((12, 16, 3), np.float32),
        depth=np.ones((12, 16), np.float32),
        confidence=np.ones((12, 16), np.float32),
        K_px=K_PX,
        T_world_cam=np.eye(4),
        T_model_cam=np.eye(4),
        recovered_K_px=K_PX,
        ray_confidence_mean=0.5,
    )
    return replace(good, **changes)


def mirrored():
    return np.stack([np.eye(4), np.diag([-1.0, 1, 1, 1])])


def test_a_good_request_and_result_pass():
    request(num_steps=1, guidance_scale=1.5, seed=0, samples=3).validate()
    unknown = view(T_model_cam=None, recovered_K_px=None, ray_confidence_mean=None)
    spread = view(spread=np.zeros((12, 16), np.float32))
    NovelViews((view(), unknown), (spread,), 0, {}).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "images is empty"),
        ({"target_hw": []}, "target_hw is empty"),
        ({"images": [np.zeros((12, 16), np.uint8)] * 2}, r"images\[0\] has shape \(12, 16\)"),
        ({"images": [np.zeros((12, 16, 3), np.float32)] * 2}, r"images\[0\] has type float32"),
        ({"images": ["a.png", "b.png"]}, r"images\[0\] is a str"),
        ({"images": [np.zeros((0, 16, 3), np.uint8)] * 2}, r"images\[0\] is \(0, 16\)"),
        ({"K_px_ref": K_PX[None]}, r"K_px_ref has shape \(1, 3, 3\); \(2, 3, 3\)"),
        ({"K_px_ref": np.stack([K_PX * [[-1], [1], [1]]] * 2)}, "focal lengths -20"),
        ({"K_px_target": K_PX[None] * np.nan}, r"K_px_target\[0\] has NaN"),
        ({"K_px_target": K_PX[None] * 2}, "last row"),
        ({"T_world_cam_ref": mirrored()}, r"T_world_cam_ref\[1\] is not a rigid motion"),
        ({"T_world_cam_target": np.full((1, 4, 4), np.inf)}, "NaN or infinite"),
        ({"target_hw": [(0, 16)]}, r"target_hw\[0\] is \(0, 16\)"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_each_fault_of_a_request_has_its_message(changes, message):
    with pytest.raises(ValueError, match=message):
        request(**changes).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": np.zeros((12, 16), np.float32)}, "rgb has shape"),
        ({"depth": np.ones((12, 15), np.float32)}, "depth has shape"),
        ({"confidence": np.ones((12, 16), np.int32)}, "confidence has type int32"),
        ({"spread": np.ones((3, 3), np.float32)}, "spread has shape"),
        ({"T_model_cam": np.eye(3)}, "T_model_cam has shape"),
        ({"recovered_K_px": K_PX * np.nan}, "recovered_K_px"),
        ({"ray_confidence_mean": float("nan")}, "ray_confidence_mean"),
    ],
)
def test_each_fault_of_a_result_names_its_view(changes, message):
    with pytest.raises(ValueError, match=rf"targets\[1\]: {message}"):
        NovelViews((), (view(), view(**changes)), 0, {}).validate()
