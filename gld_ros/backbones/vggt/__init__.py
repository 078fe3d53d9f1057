"""VGGT: image transformer, alternating frame and global attention, depth, point and camera heads.

`model.py` is the front door; `config.py` has the published size.
"""
