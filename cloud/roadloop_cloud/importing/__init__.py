"""Anybody's model: from a third-party ONNX or TFLite file to a bundle.

`inspect` reads the tensors and `pin` fixes open sizes, `layouts` recognises what the outputs mean, `choices` decides
the preprocessing and says where each value comes from, `quantize` makes an int8 file with the user's images, `make`
puts the bundle together.
"""
