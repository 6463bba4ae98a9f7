"""Backends by name, imported when asked for.

A backend is a small dataclass whose fields are its options. The embedded ones are listed as "module:Class" strings, so
that listing names imports nothing; other packages add theirs by an entry point in the registry's group:

    [project.entry-points."spinnerf_ns.inpainters"]
    mine = "my_package.inpainter:MyInpainter"
"""

from __future__ import annotations

import dataclasses
import importlib
from importlib.metadata import entry_points
from typing import Any, Mapping

from spinnerf_ns.errors import SpinnerfError


class Registry:
    """Names of one kind of backend, and their classes on demand.

    Args:
        kind: what an error calls it, for example "inpainter".
        group: the entry point group where other packages add theirs.
        builtin: name -> "module:Class".
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._targets: dict[str, str | type] = dict(builtin)

    def register(self, name: str, target: str | type) -> None:
        """Adds or replaces a backend: a class, or "module:Class"."""
        self._targets[name] = target

    def names(self) -> list[str]:
        """All names, embedded and from entry points, sorted. Imports no backend."""
        return sorted({*self._targets, *(point.name for point in entry_points(group=self.group))})

    def get(self, name: str) -> type:
        """The class called `name`.

        Raises:
            SpinnerfError: no such name, or its module does not import (the message says which package is missing).
        """
        target = self._targets.get(name)
        if target is None:
            found = [point for point in entry_points(group=self.group) if point.name == name]
            if not found:
                raise SpinnerfError(f"no {self.kind} is called '{name}'; there are: {', '.join(self.names())}")
            target = found[0].value
        if isinstance(target, type):
            return target
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise SpinnerfError(
                f"{self.kind} '{name}' needs a package that is not installed ({error}); "
                f'try: pip install "spinnerf-ns[{name}]", or choose one of: {", ".join(self.names())}'
            ) from error

    def create(self, name: str, **options: Any) -> Any:
        """An instance of the class called `name` with its options set.

        Raises:
            SpinnerfError: no such name, or an option that it does not have.
        """
        backend = self.get(name)
        known = {field.name for field in dataclasses.fields(backend)} if dataclasses.is_dataclass(backend) else None
        unknown = sorted(set(options) - known) if known is not None else []
        if unknown:
            raise SpinnerfError(
                f"{self.kind} '{name}' has no option {', '.join(unknown)}; it has: {', '.join(sorted(known)) or 'none'}"
            )
        return backend(**options)
