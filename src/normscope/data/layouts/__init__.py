"""One file per layout of images on a disk: each recognizes a directory and reads it as `Splits`."""
