"""A run's network as one folder that other programs load: StableHLO, SavedModel or ONNX."""
