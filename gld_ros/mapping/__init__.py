"""Robot logic between camera images and safe products, on NumPy arrays: no ROS, no torch.

From an image to a product: `camera_info` (pinhole camera) -> `pending` (wait for TF) ->
`keyframes` (gate, store) -> `targets` (where to imagine) -> `selection`, `guard`, `planning`
(which real views, which targets are sane) -> `jobs`, `worker` (run) -> `scale` (metres) ->
`provenance` (what may be believed) -> `products` (arrays to publish). `epochs` watches time.
"""
