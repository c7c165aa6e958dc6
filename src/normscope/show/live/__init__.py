"""The report of studies that are still being written, served to browsers: `normscope serve`."""
