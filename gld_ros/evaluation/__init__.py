"""How good imagined views are: withheld frames are the truth, with baseline methods beside.

run.py is the front door; scenes are held_out.py, the model's part model_runs.py, the measures
*_metrics.py, what the model is compared with baselines.py, output report.py and image_grid.py.
"""
