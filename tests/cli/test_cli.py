"""The command line: help, one-line errors, and what importing the plugin costs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from spinnerf_ns.cli import COMMANDS, main

PIPES = {"capture_output": True, "text": True, "timeout": 200}


def test_help_lists_every_command(capsys):
    main([])
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([name, "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    assert COMMANDS[name][1].split()[0] in text and "--" in text


def test_unknown_command_is_answered_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["erase"])
    assert exit_info.value.code == 2
    assert "segment" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["weights", "list"], ["demo", "--help"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_ends_a_command_quietly(arguments, unbuffered):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-W", "ignore", "-c", "from spinnerf_ns.cli import main; main()", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


COMMAND = [sys.executable, "-c", "from spinnerf_ns.cli import main; main()"]


def test_no_library_speaks_before_a_command_does(tmp_path):
    """Deprecations within torch and nerfstudio, as their import brings them, are nobody's business here."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run([*COMMAND, "export", "--load-config", str(tmp_path / "none.yml")], env=environment, **PIPES)
    assert done.stdout == "" and len(done.stderr.strip().splitlines()) == 1 and "no such file" in done.stderr
    run = tmp_path / "config.yml"
    run.write_text(yaml.dump({"no": "run"}))
    done = subprocess.run([*COMMAND, "evaluate", "--load-config", str(run)], env=environment, **PIPES)
    assert done.stdout == "" and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_demo_begins_with_its_own_first_line(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    command = [*COMMAND, "demo", "--output", str(tmp_path / "demo")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env={**environment, "PYTHONUNBUFFERED": "1"}, **pipes) as process:
        first = process.stdout.readline()
        process.kill()
    assert "1/6" in first


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["segment", "--data", "{tmp}/nothing", "--view", "a", "--box", "1,2,3,4"], "no such folder"),
        (["segment", "--data", "{tmp}", "--view", "a", "--box", "1,2,3,4"], "no poses"),
        (["export", "--load-config", "{tmp}/config.yml"], "ns-train spinnerf-seg"),
        (["remove", "--data", "{tmp}/nothing", "--view", "a", "--box", "1,2,3,4"], "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_status_1(arguments, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([argument.format(tmp=tmp_path) for argument in arguments])
    assert exit_info.value.code == 1
    error = capsys.readouterr().err.strip()
    assert expected in error and "\n" not in error
    assert not list(tmp_path.iterdir()), "bad input left something on disk"


@pytest.mark.parametrize("content", ["method", "text", "not: [yaml"])
def test_export_refuses_other_runs_before_it_loads_anything(content, tmp_path, capsys):
    if content == "method":
        from spinnerf_ns.runs import method_config

        content = yaml.dump(method_config("nerfacto"))
    path = tmp_path / "config.yml"
    path.write_text(content)
    with pytest.raises(SystemExit) as exit_info:
        main(["export", "--load-config", str(path)])
    assert exit_info.value.code == 1
    error = capsys.readouterr().err.strip()
    assert str(path) in error and "\n" not in error


def test_the_plugin_imports_no_two_dimensional_network():
    """nerfstudio imports the plugin at every command; an import error here would break them all."""
    code = (
        "import sys; import spinnerf_ns.method_configs.spinnerf_seg, spinnerf_ns.method_configs.spinnerf_inpaint_release; "
        "print([m for m in ('lpips', 'segment_anything', 'transformers', 'diffusers', 'trimesh', 'open3d') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_methods_are_registered_under_their_names():
    from nerfstudio.configs.method_configs import all_methods

    names = ["spinnerf-seg", "spinnerf-seg-lite", "spinnerf-inpaint", "spinnerf-inpaint-lite", "spinnerf-inpaint-release"]
    for name in names:
        assert all_methods[name].method_name == name
    assert all_methods["spinnerf-seg"].pipeline.model.num_levels == 16  # -lite is a copy: the full method is left alone
