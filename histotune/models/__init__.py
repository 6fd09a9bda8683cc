"""Networks from a configuration: backbones, fusions, redundancies, losses, and a trained network ready to predict."""
