"""How good imagined views are: withheld frames are the truth, next to baseline methods.

run.py is the entry point; held_out.py opens scenes, model_runs.py runs the model, *_metrics.py are
the metrics, baselines.py what the model is compared with, report.py and image_grid.py the output.
"""
