"""What is checked of a model that came from elsewhere before anything runs it.

`model_check` judges a bundle's graph without onnxruntime and without the package onnx: from bytes to facts, or an
error. Who signed the bundle is the business of `okko_models.registry`.
"""
