"""Partial derivatives of networks and solutions in their coordinates.

`partials` gives them by name; how they are computed is told in `jets.py`. Names are loaded at their
first use; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
