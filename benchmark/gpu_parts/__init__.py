"""Parts of `benchmark/gpu.py`: each measures one thing and returns figures for its JSON."""
