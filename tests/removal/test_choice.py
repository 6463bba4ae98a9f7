"""Which inpainter is taken, its options as texts, and one from another package."""

import sys
import textwrap
from dataclasses import fields

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.config import ELSEWHERE, ExportConfig
from spinnerf_ns.removal.inpainters import INPAINTERS, Inpainter
from spinnerf_ns.removal.inpainters.choice import choose_inpainter
from spinnerf_ns.removal.plan import make_disparity_inpainter, make_inpainter
from spinnerf_ns.weights.store import WEIGHTS
from tests.removal.networks import save_lama
from tests.removal.test_inpainters import CASES


@pytest.fixture
def nothing_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("SPINNERF_OFFLINE", "1")
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


# ----------------------------------------------------------------------------------------------------------------- auto
def test_auto_offline_is_patchmatch_and_says_so_in_one_line(nothing_cached, capsys):
    name, inpainter = choose_inpainter()
    assert name == inpainter.name == "patchmatch"
    said = capsys.readouterr().out.strip()
    assert "\n" not in said and "taking 'patchmatch' instead of 'lama'" in said and WEIGHTS["big-lama"].url in said


def test_auto_is_lama_where_its_file_is(nothing_cached, monkeypatch, capsys):
    import dataclasses
    import hashlib

    file = nothing_cached / "cache" / "big-lama.pt"
    file.parent.mkdir()
    content = save_lama(file).read_bytes()
    known = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "publisher_digest": None}
    monkeypatch.setitem(WEIGHTS, "big-lama", dataclasses.replace(WEIGHTS["big-lama"], **known))
    assert choose_inpainter()[0] == "lama"
    assert capsys.readouterr().out.strip() == "Inpainter: taking 'lama'"
    file.write_bytes(content[:-1])  # damaged: refused, and left for no later run to trust
    assert choose_inpainter()[0] == "patchmatch"
    assert "wrong file" in capsys.readouterr().out and not file.exists()


def test_auto_is_the_folder_that_was_given(nothing_cached, capsys):
    name, inpainter = choose_inpainter(inpainted=nothing_cached)
    assert name == "folder" and inpainter.folder == nothing_cached


def test_lama_by_name_offline_names_file_url_and_folder(nothing_cached):
    with pytest.raises(SpinnerfError) as caught:
        choose_inpainter("lama")
    text = str(caught.value)
    assert "\n" not in text and "big-lama.pt" in text and WEIGHTS["big-lama"].url in text
    assert str(nothing_cached / "cache") in text


@pytest.mark.parametrize("missing", ["diffusers", "transformers"])
def test_diffusion_without_its_packages(nothing_cached, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SpinnerfError, match=r"pip install .*diffusers>=") as caught:
        choose_inpainter("diffusion")
    assert "\n" not in str(caught.value)


def test_auto_downloads_nothing_unasked(nothing_cached, monkeypatch, capsys):
    monkeypatch.delenv("SPINNERF_OFFLINE")
    monkeypatch.delenv("SPINNERF_YES", raising=False)
    monkeypatch.setattr("spinnerf_ns.weights.store.download", lambda *_: pytest.fail("a download was begun"))
    assert choose_inpainter()[0] == "patchmatch"
    said = capsys.readouterr().out.strip()
    assert "\n" not in said and "206 MB, licence Apache-2.0" in said and "--yes" in said and "SPINNERF_YES=1" in said
    with pytest.raises(pytest.fail.Exception):  # what is named is fetched
        choose_inpainter("lama")


# -------------------------------------------------------------------------------------------------------------- options
def test_options_as_texts():
    name, inpainter = choose_inpainter("opencv", options=("method=ns", "radius=3"))
    assert (name, inpainter.method, inpainter.radius) == ("opencv", "ns", 3.0)
    texts = ["weights=a b/x.pt", "trust_weights=true", "memory_limit=2.5", "disparity=network"]
    parsed = INPAINTERS.parse_options("lama", texts)
    assert {key: str(value) for key, value in parsed.items()} == {
        "weights": "a b/x.pt", "trust_weights": "True", "memory_limit": "2.5", "disparity": "network"
    }  # fmt: skip
    assert parsed["trust_weights"] is True and parsed["memory_limit"] == 2.5


@pytest.mark.parametrize("option", ["radius", "radius=wide", "name=x", "colour=red", "method=magic", "=3"])
def test_wrong_options_are_one_line(option, capsys):
    with pytest.raises(SpinnerfError, match="opencv") as caught:
        choose_inpainter("opencv", options=(option,))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_options_of_nobody():
    with pytest.raises(SpinnerfError, match="name the inpainter"):
        choose_inpainter("auto", options=("seed=1",))


def test_disparity_by_a_network_is_asked_for_by_name(tmp_path):
    options = (f"weights={save_lama(tmp_path / 'small.pt')}", "trust_weights=True")
    config = ExportConfig(inpainter="lama", inpainter_options=options)
    name, inpainter = make_inpainter(config)
    assert make_disparity_inpainter(config, name, inpainter) is inpainter and inpainter.disparity == "rim"
    config.disparity_inpainter = "lama"
    assert make_disparity_inpainter(config, name, inpainter).disparity == "network"
    config.disparity_inpainter = "opencv"
    with pytest.raises(SpinnerfError, match="opencv: it has no network for disparity"):
        make_disparity_inpainter(config, name, inpainter)


# ------------------------------------------------------------------------------------------------------ another package
MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from spinnerf_ns.removal.inpainters.base import PhotoInpainter


@dataclass
class RingInpainter(PhotoInpainter):
    """Fills the gap with the median colour of a ring around it."""

    name: ClassVar[str] = "ring"
    width: int = 9

    def fill(self, image, gap, photo):
        around = cv2.dilate(gap.astype(np.uint8), np.ones((2 * self.width + 1,) * 2, np.uint8)) > 0
        filled = image.copy()
        filled[gap] = np.median(image[around & ~gap], axis=0)
        return filled
'''


@pytest.fixture
def another_package(tmp_path, monkeypatch):
    """A package as pip leaves it: its module, and beside it the metadata with its entry points."""
    (tmp_path / "ring_inpainter.py").write_text(MODULE)
    (tmp_path / "broken_inpainter.py").write_text("import a_package_that_nobody_has\n")
    metadata = tmp_path / "ring_inpainter-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ring-inpainter\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        textwrap.dedent(
            """
            [spinnerf_ns.inpainters]
            ring = ring_inpainter:RingInpainter
            broken = broken_inpainter:BrokenInpainter
            misspelt = ring_inpainter:RungInpainter
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_an_inpainter_of_another_package(another_package):
    assert "ring" in INPAINTERS.names()
    name, inpainter = choose_inpainter("ring", options=("width=3",))
    assert name == inpainter.name == "ring" and inpainter.width == 3 and isinstance(inpainter, Inpainter)
    image, to_fill = CASES["ordinary"]
    filled = inpainter.inpaint(image, to_fill)
    np.testing.assert_array_equal(filled[~to_fill], image[~to_fill])
    assert len(np.unique(filled[to_fill], axis=0)) == 1


def test_without_the_package_the_name_is_unknown():
    with pytest.raises(SpinnerfError, match="no inpainter is called 'ring'"):
        INPAINTERS.get("ring")


def test_a_broken_one_is_not_taken_for_one_of_ours(another_package):
    with pytest.raises(SpinnerfError, match="'broken'.*a_package_that_nobody_has") as caught:
        choose_inpainter("broken")
    assert "spinnerf-ns[" not in str(caught.value) and "broken_inpainter" in str(caught.value)
    with pytest.raises(SpinnerfError, match="'misspelt'.*has no RungInpainter"):
        choose_inpainter("misspelt")


def test_every_option_counts_but_those_that_say_why_not():
    """A new option is part of the export's key unless its metadata says where else it counts."""
    every = {each.name for each in fields(ExportConfig)}
    aside = {each.name for each in fields(ExportConfig) if each.metadata.get(ELSEWHERE)}
    counted = set(ExportConfig().settings())
    assert aside & counted == set() and aside | counted == every
    assert "overwrite" in aside and {"dilation", "by_surface", "reference_view"} <= counted
