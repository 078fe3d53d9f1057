"""Sizes common to all geometry backbones, and their checks; each family adds its own."""

from dataclasses import dataclass

from gld_ros.backbones.interface import NUM_LEVELS


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """What determines shapes and wiring of one model, as far as both families share it.

    embed_dim, depth, num_heads: width, blocks (VGGT: pairs of blocks), attention heads.
    tap_layers: the four blocks (VGGT: pairs) whose outputs are levels 0..3.
    head_features, head_out_channels: width of the fusion chains, channels of the four stages.
    image_size: side in pixels of the square image the positional table is made for.
    layer_scale_init: initial value of the residual scales in a model trained from scratch.
    """

    embed_dim: int
    depth: int
    num_heads: int
    tap_layers: tuple[int, int, int, int]
    head_features: int
    head_out_channels: tuple[int, int, int, int]
    image_size: int = 518
    patch_size: int = 14
    layer_scale_init: float = 1.0

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config read from a bundle must equal the one that was written.
        object.__setattr__(self, "tap_layers", tuple(self.tap_layers))
        object.__setattr__(self, "head_out_channels", tuple(self.head_out_channels))
        if problems := self.problems():
            raise ValueError(f"invalid {type(self).__name__}: " + "; ".join(problems))

    def problems(self) -> list[str]:
        """What makes no model, one sentence each; a family adds what it asks beyond this."""
        problems = []
        if self.embed_dim % self.num_heads or (self.embed_dim // self.num_heads) % 4:
            problems.append(
                f"embed_dim {self.embed_dim} must give each of {self.num_heads} heads a multiple "
                "of 4 channels (rotary positions)"
            )
        if self.image_size % self.patch_size:
            problems.append(
                f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}"
            )
        taps, first = self.tap_layers, self.first_tap
        if len(taps) != NUM_LEVELS or list(taps) != sorted(set(taps)):
            problems.append(f"tap_layers {taps} must be {NUM_LEVELS} increasing block indices")
        elif taps[0] < first or taps[-1] >= self.depth:
            problems.append(f"tap_layers {taps} must lie in {first}..{self.depth - 1}")
        if len(self.head_out_channels) != NUM_LEVELS or any(c % 4 for c in self.head_out_channels):
            problems.append(
                f"head_out_channels {self.head_out_channels} must be {NUM_LEVELS} multiples of 4"
            )
        if self.head_features % 8:
            problems.append(f"head_features {self.head_features} must be a multiple of 8")
        return problems

    @property
    def first_tap(self) -> int:
        """The first block that may be tapped."""
        return 0

    @property
    def channels(self) -> int:
        """Channels of one level: the local half and the current half."""
        return 2 * self.embed_dim

    @property
    def table_side(self) -> int:
        """Patches along one side of the positional table."""
        return self.image_size // self.patch_size
