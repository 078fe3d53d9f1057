"""The application between camera images and products, without ROS; torch only in `model`.

`session` combines the parts and is driven by a node or by `offline`. From an image to a product:
`intake` (checks, `pending` for TF, decoding) -> `keyframes` (gate, store) -> `job_planner`
(`targets`, `selection`, `guard`, `planning`) -> `jobs`, `worker` (run) -> `postprocess` (`scale`,
`provenance`, `products`, `clouds`) -> `product_messages`. `epochs` watches time, `parameters` holds
what can be set, `fault_log` and `job_history` what is reported.
"""
