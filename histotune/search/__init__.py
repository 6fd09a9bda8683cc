"""The search: Optuna proposes, Ray Tune runs, the study folder remembers."""
