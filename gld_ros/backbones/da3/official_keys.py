"""Translation between parameter names of published DA3 checkpoints and of `DepthAnything3`.

Inside the modules names are the published ones, so only the top-level prefixes differ. Reading
files is the work of `gld_ros.weights`.
"""

# (our prefix, prefix in the published model.safetensors)
PREFIXES = (
    ("backbone.", "model.backbone.pretrained."),
    ("head.", "model.head."),
    ("camera_encoder.", "model.cam_enc."),
    ("camera_decoder.", "model.cam_dec."),
)


def official_key(key: str) -> str:
    """Published name of a `DepthAnything3` parameter; raises ValueError for an unknown part."""
    return _swap(key, PREFIXES)


def key_from_official(official: str) -> str:
    """`DepthAnything3` name of a published parameter; raises ValueError for an unknown part."""
    return _swap(official, tuple((theirs, ours) for ours, theirs in PREFIXES))


def _swap(key: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    for old, new in prefixes:
        if key.startswith(old):
            return new + key.removeprefix(old)
    allowed = ", ".join(old for old, _ in prefixes)
    raise ValueError(f"parameter name {key!r} starts with none of {allowed}")
