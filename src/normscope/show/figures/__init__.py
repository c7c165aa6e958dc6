"""The figures as PNG: each module draws one from records, in the one style of `style`."""
