"""ns-spinnerf splat: the command on a small field, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from spinnerf_ns.cli import main
from spinnerf_ns.files import read_image
from tests.evaluation.conftest import inpaint_run, removed, twin  # noqa: F401
from tests.scene.test_splats import of_file


def test_a_field_becomes_a_file_a_picture_and_two_lines(inpaint_run, tmp_path, capsys) -> None:  # noqa: F811
    output = tmp_path / "a scene/splat.ply"
    main(["splat", "--load-config", str(inpaint_run), "--output", str(output), "--downscale", "2", "--sh-degree", "3"])
    said = [line for line in capsys.readouterr().out.splitlines() if str(output)[:-4] in line]
    assert "Gaussians" in said[0] and str(output) in said[0]
    assert "dB in 4 training views" in said[1] and "views between them" in said[1] and str(output.with_suffix(".png")) in said[1]
    found = of_file(output)
    assert len(found["means"]) > 50 and all(np.isfinite(values).all() for values in found.values())
    assert int(said[0].split()[0]) == len(found["means"])
    assert read_image(output.with_suffix(".png")).shape == (2 * 24, 2 * 32, 3)  # the field above, the splats below


@pytest.mark.parametrize(
    "options, text",
    [
        (["--output", "splat.spz"], "splat.spz: a name that ends with .ply was expected"),
        (["--downscale", "0.5"], "--downscale 0.5: 1 or more"),
        (["--load-config", "nowhere/config.yml"], "nowhere/config.yml: no such file"),
    ],
)
def test_what_it_refuses(inpaint_run, options, text, capsys) -> None:  # noqa: F811
    with pytest.raises(SystemExit) as stop:
        main(["splat", "--load-config", str(inpaint_run), *options])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1 and text in error and "\n" not in error


def test_a_method_without_depth_is_told_what_to_run(inpaint_run, monkeypatch, capsys) -> None:  # noqa: F811
    from types import SimpleNamespace

    import spinnerf_ns.evaluation.baselines as baselines

    monkeypatch.setattr(baselines, "load_pipeline", lambda *_: SimpleNamespace(model=object()))
    with pytest.raises(SystemExit):
        main(["splat", "--load-config", str(inpaint_run)])
    assert "renders no expected depth" in capsys.readouterr().err
