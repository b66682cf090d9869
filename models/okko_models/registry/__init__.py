"""The model channel: bundles, published, signed, and fetched by devices that trust no server.

A registry is a folder of static files, or the same files in S3. `publisher` writes it, `client` reads it on a device;
both follow The Update Framework (https://theupdateframework.github.io/specification/latest/) through python-tuf.
"""
