"""Sizes of images on the command line: always WxH, width first, as in 112x84."""

import argparse

SIZE_FORM = "WxH"


def size_hw(text: str) -> tuple[int, int]:
    """Height and width in pixels of a size that was typed as WxH; a `type` for argparse.

    Raises ArgumentTypeError, which says the form.
    """
    width, cross, height = text.lower().partition("x")
    if not cross or not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write width and height in pixels as {SIZE_FORM}, such as 112x84"
        )
    if not (int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r}: width and height need at least 1 pixel")
    return int(height), int(width)
