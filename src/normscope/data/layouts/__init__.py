"""One file per layout in which images lie on a disk: each finds itself in a directory, and reads it as `Splits`."""
