"""What a model is: the bundle, its manifest, its decision rule, and how it classifies a photo.

Training writes bundles and the edge reads them; neither knows the other, both know this package.
"""
