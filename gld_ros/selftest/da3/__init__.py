"""Self-test of folders made with Depth Anything 3 modules: `folder` runs them, one file per part.

`models` builds the modules, `tolerances` holds the limits, the other files the checks.
"""
