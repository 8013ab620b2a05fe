"""Compression: a smaller network from a larger one that is there already.

`settings.py` is what is asked for, `subject.py` puts distillation, pruning and quantization-aware training in the place
of a task's ordinary training, `compare.py` measures what came of it. `make.py` is what others call.
"""
