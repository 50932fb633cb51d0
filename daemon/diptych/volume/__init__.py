"""Which instances form a volume, how they are decoded, and the volume itself.

Read in this order: ``instance`` (one file, inside a child process), ``decoders`` (the children),
``plan`` (instances → stacks), ``assemble`` (a stack → a ``Volume``), ``orient``.
"""
