"""Sinks: the same numbers in the dashboards that people have. Each reads records; none touches a model.

Records are the bridge here, too. A study's workers write nothing but their records; the process that waits for them
reads an epoch once it is stored and passes it on. So a sink can neither slow nor stop a training, a study that is
resumed (or finished long ago) is passed on by the same code, `normscope export --to tensorboard` among it, and a sink
written by somebody else needs no worker to know it. A watcher passes on what it has just written to its record.
"""
