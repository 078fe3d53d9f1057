"""Training of every part of GLD: one loop (`loop.py`), one file per job in `stages/`."""
