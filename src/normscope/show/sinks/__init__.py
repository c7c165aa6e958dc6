"""Sinks: the same numbers in other dashboards. Each reads records; none touches a model.

A study's workers write nothing but their records; the process that waits for them reads each epoch
once it is stored and passes it on. So a sink can neither slow down nor stop a training, finished
studies are replayed by the same code (`normscope export --to tensorboard`), and a sink of somebody
else needs no support in a worker. A watcher passes on what it has just written to its record.
"""
