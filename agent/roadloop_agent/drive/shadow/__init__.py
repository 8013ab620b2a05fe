"""The shadow: a candidate decides beside the incumbent, about the same frames, and nothing follows from it.

Both decide once more in a process of their own (`child.py`), which a crash, a hang or the interpreter's lock of a
candidate does not leave: what drives never notices. `host.py` is drive's end of it, `compare/` says for each task what
deciding otherwise is.
"""
