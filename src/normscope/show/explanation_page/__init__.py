"""The page of `normscope explain`: a trained network that runs inside it."""
