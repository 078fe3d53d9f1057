"""Photos to 3D: depth, cameras and a coloured point cloud, from images alone.

python examples/photos_to_3d.py                    a rendered room
python examples/photos_to_3d.py photos/ da3-base   your own, with fetched weights
"""

import sys

import gld_ros


def rendered_room():
    """A view of a procedural room as an array (H, W, 3) uint8."""
    from gld_ros.scenes.rooms import render_rooms

    scene = render_rooms("narrow", [3_000_000_002], num_views=2, image_hw=(240, 320))
    return (255 * scene["images"][0, 0].permute(1, 2, 0)).round().byte().numpy()


images = sys.argv[1] if len(sys.argv) > 1 else rendered_room()
bundle = sys.argv[2] if len(sys.argv) > 2 else "tiny"

result = gld_ros.reconstruct(images, bundle)
near, far = result.depth.min(), result.depth.max()
print(f"depth {result.depth.shape}, {near:.2f} to {far:.2f} ({result.unit})")
print(f"{len(result.points)} points -> {result.save('out/photos_to_3d.ply')}")
for note in result.notes:
    print("note:", note)
