"""Imagine a view that no camera has taken, from two posed images."""

from pathlib import Path

import numpy as np
from PIL import Image

from gld_ros import NovelViewPipeline
from gld_ros.scenes.rooms import render_rooms
from gld_ros.view_request import ViewRequest

# Three posed views of a procedural room: two are shown to the model, the third is the truth.
scene = render_rooms("narrow", [3_000_000_002], num_views=3, image_hw=(84, 112))
images = (255 * scene["images"][0].permute(0, 2, 3, 1)).round().byte().numpy()
K_px, T_world_cam = scene["K_px"][0].double().numpy(), scene["T_world_cam"][0].double().numpy()

pipeline = NovelViewPipeline.from_pretrained("tiny")
views = pipeline(
    ViewRequest(
        images=[images[0], images[2]],
        K_px_ref=K_px[[0, 2]],
        T_world_cam_ref=T_world_cam[[0, 2]],
        K_px_target=K_px[[1]],
        T_world_cam_target=T_world_cam[[1]],
        target_hw=[(84, 112)],
        seed=0,
    )
)
imagined = np.round(255 * np.nan_to_num(views.targets[0].rgb)).clip(0, 255).astype(np.uint8)
error = np.mean((imagined.astype(float) - images[1]) ** 2)
print(f"PSNR against the withheld truth: {10 * np.log10(255**2 / error):.1f} dB")
Path("out").mkdir(exist_ok=True)
row = np.concatenate([images[0], imagined, images[1], images[2]], axis=1)
Image.fromarray(row).resize((4 * 336, 252)).save("out/imagined_view.png")
print("out/imagined_view.png: reference, imagined, withheld truth, reference")
