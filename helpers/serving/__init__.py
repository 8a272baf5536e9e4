"""The servers that the local stack starts, one package each, and what they share in `common`.

On the wire they are interchangeable with Seldon Core 1.19's own. Nothing in here imports
`helpers.stack`, and a server that needs no TensorFlow never imports it.
"""
