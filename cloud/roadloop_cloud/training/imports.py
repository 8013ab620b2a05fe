"""Importing what makes a million objects that all stay: torch, and the converters."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """For imports: no garbage is looked for meanwhile, nor ever again among what is there then.

    Looking through it again and again was a fifth of the processor time of a short training.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
