"""Self-tests anyone can run: a daemon of its own in a scratch folder, killed or cut from its power.

What they show is that every instance acknowledged with 0x0000 is stored and judged, once.
"""
