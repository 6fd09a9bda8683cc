"""Portable models: export folders, ONNX, torch.export, MLflow, model card, server, distillation."""
