"""VGGT: image transformer, alternating frame and global attention, depth, point and camera heads.

`model.py` is the entry point; `config.py` has the published size.
"""
