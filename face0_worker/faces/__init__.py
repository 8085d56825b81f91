"""Floor 1: finding and embedding faces with insightface over onnxruntime. Never imports torch."""
