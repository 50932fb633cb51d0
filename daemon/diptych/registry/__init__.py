"""Models beside the bundled one: official checkpoints, anybody's ONNX files, and the switch.

Read in this order: ``register`` (what is registered, added, removed), ``probe`` (any ONNX file),
``official`` and ``fetch`` (Meta's checkpoints), ``vit`` and ``export`` (a checkpoint becomes ONNX;
torch is imported there and nowhere else), ``calibrate`` (``d_max``), ``switch`` (the archive is
embedded again, from ``volumes`` read once more), ``said`` (what the commands print).
"""
