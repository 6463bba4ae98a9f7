"""ns-spinnerf: one file per sub-command. Modules are imported when their command runs, so that --help is quick."""

from __future__ import annotations

import importlib
import os
import sys
import warnings

COMMANDS = {
    "check": ("check:Check", "what a capture is, and what would go wrong with it"),
    "segment": ("segment:Segment", "object masks in every photo, from clicks in one"),
    "export": ("export:Export", "masks, depth and the object-free capture from a trained spinnerf-seg run"),
    "remove": ("remove:Remove", "all of it: segment, train, export, train; resumable"),
    "video": ("video:Video", "the scene with and without the object along a camera path, as a video"),
    "splat": ("splat:Splat", "a trained field as Gaussian splats, without a GPU"),
    "convert-llff": ("convert_llff:ConvertLlff", "an LLFF or SPIn-NeRF folder as a nerfstudio dataset"),
    "evaluate": ("evaluate:Evaluate", "all figures of a finished run on its test photos, with a report"),
    "benchmark": ("benchmark:Benchmark", "scenes x methods x seeds: how well each removes a known object"),
    "plant": ("plant:Plant", "a capture with a made-up object in it, and what is behind: truth for benchmarks"),
    "weights": ("weights:Weights", "pretrained files: list, fetch, verify"),
    "demo": ("demo:Demo", "remove an object from a made-up scene and report how well it went"),
}
"""Name -> ("module:Class", what it does)."""

LIBRARIES = r"(torch|torchvision|torchmetrics|nerfstudio|nerfacc|viser|lpips|transformers|diffusers)(\.|$)"
"""Modules whose warnings are not for the user of a command: of deprecated calls in their own code, before our first line."""

YES = "--yes"
"""Allows the downloads that "auto" would ask about; every command takes it."""


def main(arguments: list[str] | None = None) -> None:
    """Runs `ns-spinnerf <command> ...`; an error that the user can mend is one line and exit status 1, Ctrl-C one and 130.

    A reader of its output that has enough (`| head`) ends it as well, without a line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit is not to fail again
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        from spinnerf_ns.errors import last_line

        said = last_line(error)
        if said is None:
            raise
        print(f"ns-spinnerf {arguments[0]}: {said[0]}", file=sys.stderr)
        sys.exit(said[1])


def quiet_libraries() -> None:
    """Leaves out what libraries warn their own developers of; Python's -W and PYTHONWARNINGS bring it back."""
    if not sys.warnoptions:
        for category in (FutureWarning, UserWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=LIBRARIES)


def _run(arguments: list[str]) -> None:
    quiet_libraries()
    if YES in arguments:
        arguments = [argument for argument in arguments if argument != YES]
        os.environ["SPINNERF_YES"] = "1"  # for processes that the command starts as well
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from spinnerf_ns import __version__

        print(__version__)
        return
    name = arguments[0]
    if name not in COMMANDS:
        print(f"ns-spinnerf: there is no command '{name}'; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module, _, attribute = COMMANDS[name][0].partition(":")
    import tyro

    command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    words = getattr(command, "prepare_arguments", list)(arguments[1:])
    tyro.cli(command, prog=f"ns-spinnerf {name}", description=COMMANDS[name][1], args=words).main()


def usage() -> str:
    """The text of `ns-spinnerf --help`."""
    lines = ["usage: ns-spinnerf COMMAND [options]", "", "Remove an object from a captured scene.", "", "commands:"]
    lines += [f"  {name:<14}{text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "ns-spinnerf COMMAND --help says what a command takes."]
    lines += [f"{YES} allows the downloads that it would ask about (so does SPINNERF_YES=1)."]
    return "\n".join(lines)
