"""Other behaviour where nerfstudio leaves no hook for it: an attribute replaced for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Within this context a module, class or object has other attributes; afterwards it is as it was.

    Args:
        owner: what has them.
        attributes: name -> what stands there meanwhile; each name has to be there.
    """
    own = {name: vars(owner).get(name, _INHERITED) for name in attributes}
    for name in attributes:
        getattr(owner, name)  # a misspelt name is an error, not a new attribute
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in own.items():
            delattr(owner, name) if value is _INHERITED else setattr(owner, name, value)


_INHERITED = object()
