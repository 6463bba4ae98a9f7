"""Several prompts in one command: --object vase --view A --points ... --view B --box ... --object lamp --view A --box ...

An option belongs to the photo named last before it, a photo to the object named last before it. tyro keeps no order between
options, so that groups are gathered before it reads the command: each becomes a value of one option.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from spinnerf_ns.errors import SpinnerfError

GROUPED = ("points", "box", "mask", "brush")
"""Options that say something about the photo named before them."""
GATHERED = "--prompts"
"""The option that the groups become."""


def gather_groups(arguments: Sequence[str]) -> list[str]:
    """A command line with its groups gathered; as it is where there is one photo at most and no object is named.

    Args:
        arguments: what follows the command's name.

    Raises:
        SpinnerfError: an option before the photo that it belongs to, or twice for one photo.
    """
    words = _split(arguments)
    names = [name for name, _ in words]
    if names.count("--view") < 2 and "--object" not in names:
        return list(arguments)
    rest: list[str] = []
    groups: list[dict] = []
    name: str | None = None
    alone = names.count("--view") == 1
    if alone:  # one photo: its options may come in any order, as without --object
        groups.append({})
    for option, values in words:
        key = option.removeprefix("--")
        if option == "--object":
            name = _one(option, values)
            if alone and "object" in groups[0]:
                raise SpinnerfError(f"--object {name}: no photo is named for '{groups[0]['object']}'; add --view PHOTO to each")
            if alone:
                groups[0]["object"] = name
        elif option == "--view":
            if not alone:
                groups.append({} if name is None else {"object": name})
            groups[-1]["view"] = _one(option, values)
        elif key in GROUPED:
            if not groups:
                raise SpinnerfError(f"{option} was given before the photo that it belongs to; write --view PHOTO {option} ...")
            if key in groups[-1]:
                raise SpinnerfError(f"{option} was given twice for photo '{groups[-1].get('view')}'; put all values into one")
            groups[-1][key] = list(values) if key in ("points", "brush") else _one(option, values)
        else:
            rest += [option, *values] if option else list(values)
    if not any("view" in group for group in groups):
        raise SpinnerfError(f"--object {name} was given, but no photo; add --view PHOTO --points X,Y")
    return [*rest, GATHERED, *(json.dumps(group, ensure_ascii=False) for group in groups)]


def _split(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(option, its values) in order; option "" for values before the first one. --a=b is read as --a b, underscores as -."""
    words: list[tuple[str, list[str]]] = []
    for word in arguments:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            words.append((option.replace("_", "-"), [value] if equals else []))
        elif words:
            words[-1][1].append(word)
        else:
            words.append(("", [word]))
    return words


def _one(option: str, values: Sequence[str]) -> str:
    if len(values) != 1:
        raise SpinnerfError(f"{option} wants one value, found {len(values)}: {' '.join(values) or 'none'}")
    return values[0]
