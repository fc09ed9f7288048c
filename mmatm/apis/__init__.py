"""Models with their weights: predictions, the ONNX export, published checkpoints."""
