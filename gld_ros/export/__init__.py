"""Networks without Python: the parts of a bundle as AOTInductor, ONNX and TensorRT files."""
