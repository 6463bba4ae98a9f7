"""Backends by name, imported when asked for.

A backend is a small dataclass whose fields are its options. The embedded ones are listed as "module:Class" strings, so
that listing names imports nothing; other packages add theirs by an entry point in the registry's group:

    [project.entry-points."spinnerf_ns.inpainters"]
    mine = "my_package.inpainter:MyInpainter"
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, metadata, requires
from typing import Any, get_type_hints

import tyro

from spinnerf_ns.errors import SpinnerfError


def install_command(extra: str) -> str:
    """The command that installs what one of this package's extras stands for.

    It names the packages themselves: this one is installed from a clone or a git URL, which pip could not find again by name.
    """
    try:
        listed = requires("spinnerf-ns") or []
    except PackageNotFoundError:  # run from a folder that was never installed
        listed = []
    wanted = [line.partition(";")[0].strip() for line in listed if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", line)]
    return shlex.join(["pip", "install", *wanted]) if wanted else f"pip install -e '.[{extra}]' from a clone of spinnerf-ns"


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
            # Another package's backend is none of our extras, and neither is an embedded one without needs of its own.
            ours = name in self._targets and name in (metadata("spinnerf-ns").get_all("Provides-Extra") or ())
            mend = install_command(name) if ours else f"install what {module.partition('.')[0]} needs"
            raise SpinnerfError(
                f"{self.kind} '{name}' ({module}) needs a package that is not installed ({error}); "
                f"{mend}, or choose one of: {', '.join(other for other in self.names() if other != name)}"
            ) from error
        except AttributeError as error:
            raise SpinnerfError(
                f"{self.kind} '{name}' should be {target}, but {module} has no {attribute}; correct the entry point in {self.group}"
            ) from error

    def parse_options(self, name: str, options: Sequence[str]) -> dict[str, Any]:
        """The backend's options; see `parse_options`.

        Raises:
            SpinnerfError: no such name or option, or a value that does not fit.
        """
        return parse_options(self.get(name), options, f"{self.kind} '{name}'") if options else {}

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


def parse_options(backend: type, options: Sequence[str], what: str) -> dict[str, Any]:
    """Options given as texts, "field=value", in the types of a dataclass's fields.

    Args:
        backend: the class.
        options: the texts.
        what: how messages call it.

    Raises:
        SpinnerfError: no such option, or a value that does not fit.
    """
    if not options:
        return {}
    fields = {field.name for field in dataclasses.fields(backend)} if dataclasses.is_dataclass(backend) else set()
    types = get_type_hints(backend)
    parsed = {}
    for option in options:
        field, equals, value = option.partition("=")
        if not equals or field not in fields:
            raise SpinnerfError(
                f"{what}: the option {option!r} is not one of its FIELD=VALUE; its fields: {', '.join(sorted(fields)) or 'none'}"
            )
        wanted = types[field]
        try:  # as tyro reads command lines; at fault it wants to print and exit
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                parsed[field] = tyro.cli(wanted, args=[value.capitalize() if wanted is bool else value])
        except SystemExit as error:
            expected = wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
            raise SpinnerfError(f"{what}: {field} is {value!r}, expected {expected}") from error
    return parsed
