"""A real Apache Kafka: one node or three, in processes that the tests start on free ports in temporary folders.

`install` is where its jars come from, `node` is one process, `cluster` several that know each other, and `client` is
how a test looks at them from outside.
"""
