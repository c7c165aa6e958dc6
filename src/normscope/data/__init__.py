"""Images for training: where they come from (`sources`), and how they reach the device (`batches`).

`sources.load` gives a `Dataset` of uint8 arrays on the host; `batches.Batches` turns it into
augmented, normalized batches on a device. Importing this package, or `sources`, loads neither torch
nor any reader of image files.
"""
