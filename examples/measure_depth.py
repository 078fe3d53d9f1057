"""Measure depth from posed images, without a network: what no image shows stays NaN."""

from pathlib import Path

import numpy as np
from PIL import Image

from gld_ros.depth_colours import depth_with_scale
from gld_ros.measuring.confidence import SURE
from gld_ros.measuring.frames import PosedImage
from gld_ros.measuring.measure import MeasuringParameters, measure_depth
from gld_ros.scenes.rooms import render_rooms

# Five posed views of a procedural room; yours come from a robot, or from structure from motion.
scene = render_rooms("narrow", [3_000_000_002], num_views=5, image_hw=(240, 320))
images = (255 * scene["images"][0].permute(0, 2, 3, 1)).round().byte().numpy()
K_px, T_world_cam = scene["K_px"][0].double().numpy(), scene["T_world_cam"][0].double().numpy()
frames = [PosedImage(images[i], K_px[i], T_world_cam[i], i, "camera") for i in range(5)]

search = MeasuringParameters(depth_range_m=(0.3, 12.0))
measured = measure_depth(frames[2], [frames[i] for i in (0, 1, 3, 4)], search)

depth_m = np.where(measured.confidence >= SURE, measured.depth_m, np.nan)
true_m = scene["depth_m"][0, 2].numpy()
error = np.abs(depth_m - true_m) / true_m
print(f"{np.isfinite(depth_m).mean():.0%} measured, median error {np.nanmedian(error):.1%}")
Path("out").mkdir(exist_ok=True)
Image.fromarray(depth_with_scale(depth_m, "m")).save("out/measured_depth.png")
print("out/measured_depth.png")
