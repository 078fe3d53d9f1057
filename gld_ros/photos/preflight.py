"""Whether photos fit into memory together, asked before any of them is decoded.

Owns the comparison and the advice. What a network needs is `gld_ros.memory_estimate`, how much is
free `gld_ros.mapping.memory_preflight`. Not counted: the photos themselves, which are decoded one
at a time, and measuring the scale of known cameras. A GPU with memory of its own is not asked:
torch raises an error there, where the kernel would end the process.
"""

import math
from collections.abc import Callable, Sequence

from gld_ros.backbones.da3.preprocess import prepared_hw
from gld_ros.mapping.memory_preflight import GIB, available_host_bytes, free_bytes
from gld_ros.memory_estimate import forward_bound, forward_estimate
from gld_ros.photos.network import Backbone

FREE_SHARE = 0.8  # of free memory; estimates may be a fifth too low
RESULT_BYTES = 320  # per pixel while results become points; a little more than many photos took
SMALLEST_SIDE = 0.5  # of the side asked for; photos that are smaller still are no advice

ImageHw = tuple[int, int]


def require_memory(network: Backbone, sizes_hw: Sequence[ImageHw], longest_side_px: int) -> None:
    """Raise ValueError if photos of these sizes do not fit together, with what would fit.

    `longest_side_px` is that of the photos as the network sees them. Takes seconds only where a
    rough bound does not fit. Does nothing where the system does not tell how much is free.
    """
    try:
        free, on_host = free_bytes(next(network.parameters()).device)
        if not on_host:
            free = available_host_bytes()
    except FileNotFoundError:  # no /proc: not Linux
        return
    budget = int(FREE_SHARE * free)

    def needed(num_views: int, image_hw: ImageHw) -> int:
        forward = forward_estimate(network, num_views, image_hw) if on_host else 0
        return max(forward, _result_bytes(num_views, image_hw))

    num_views, image_hw = len(sizes_hw), _seen_hw(network, sizes_hw, longest_side_px)
    bound = forward_bound(network, num_views, image_hw) if on_host else 0
    if max(bound, _result_bytes(num_views, image_hw)) <= budget:
        return
    need = needed(num_views, image_hw)
    if need <= budget:
        return
    fitting = _fitting_views(lambda views: needed(views, image_hw), num_views, need, budget)
    side = _fitting_side(
        lambda side_px: needed(num_views, _seen_hw(network, sizes_hw, side_px)),
        longest_side_px,
        network.patch_size,
        need,
        budget,
    )
    raise ValueError(
        f"{num_views} photo{'s' if num_views > 1 else ''} at {image_hw[1]}x{image_hw[0]} px need "
        f"about {need / GIB:.2f} GiB together, but {free / GIB:.2f} GiB of memory are free, of "
        f"which {FREE_SHARE:.0%} may be used; {_advice(num_views, fitting, side)}"
    )


def _seen_hw(network: Backbone, sizes_hw: Sequence[ImageHw], longest_side_px: int) -> ImageHw:
    return prepared_hw(sizes_hw, process_res=longest_side_px, patch_size=network.patch_size)


def _result_bytes(num_views: int, image_hw: ImageHw) -> int:
    return RESULT_BYTES * num_views * image_hw[0] * image_hw[1]


def _fitting_views(needed: Callable[[int], int], num_views: int, need: int, budget: int) -> int:
    """How many views fit; from above, since what is needed beside the views stays."""
    while num_views > 0 and need > budget:
        num_views = min(num_views - 1, num_views * budget // need)
        need = needed(num_views) if num_views else 0
    return num_views


def _fitting_side(
    needed: Callable[[int], int], side_px: int, patch_size: int, need: int, budget: int
) -> int | None:
    """The longest side at which all views fit; None where it would be much shorter."""
    smallest_px = max(patch_size, SMALLEST_SIDE * side_px)
    while need > budget:
        fitting_px = min(side_px - 1, int(side_px * math.sqrt(budget / need)))
        side_px = fitting_px // patch_size * patch_size
        if side_px < smallest_px:
            return None
        need = needed(side_px)
    return side_px


def _advice(num_views: int, fitting: int, side_px: int | None) -> str:
    ways = []
    if fitting:
        every = math.ceil(num_views / fitting)
        ways.append(f"give at most {fitting} of them, such as one of every {every} (--every)")
    if side_px is not None:
        ways.append(f"let the network see them smaller: longest_side_px={side_px} (--size)")
    return ", or ".join(ways or ["not even one fits: free memory, or ask for a much smaller size"])
