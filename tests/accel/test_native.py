"""SPINNERF_KERNELS: what it may say, what it means for one kernel, and the variables that it came in place of."""

from __future__ import annotations

import pytest

from spinnerf_ns.accel import hash_grid, kernels, max_flow, ray_sampling, ray_weights, tiny_mlp
from spinnerf_ns.accel.native import VARIABLE
from spinnerf_ns.accel.replaced import replaced
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.inpainters import patch_kernel
from spinnerf_ns.stereo import plane_sweep

MODULES = (hash_grid, max_flow, ray_sampling, ray_weights, tiny_mlp, patch_kernel, plane_sweep)
KERNELS = {module.KERNEL.name: module.KERNEL for module in MODULES}
OLD = {
    "SPINNERF_HASH_GRID": "hash_grid", "SPINNERF_MAX_FLOW": "max_flow", "SPINNERF_RAY_SAMPLING": "ray_sampling",
    "SPINNERF_RAY_WEIGHTS": "ray_weights", "SPINNERF_TINY_MLP": "tiny_mlp", "SPINNERF_PATCHMATCH": "patch_kernel",
}  # fmt: skip


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in (VARIABLE, *OLD):
        monkeypatch.delenv(name, raising=False)


def test_every_kernel_of_the_package_has_a_name():
    assert set(KERNELS) == {source.stem for source in kernels.kernel_sources()}


@pytest.mark.parametrize(
    "text, expected", [
        ("", {}),
        ("off", dict.fromkeys(KERNELS, "off")),
        ("native", dict.fromkeys(KERNELS, "native")),
        ("tiny_mlp=off", {"tiny_mlp": "off"}),
        ("off, hash_grid=native,max_flow=auto", dict.fromkeys(KERNELS, "off") | {"hash_grid": "native", "max_flow": "auto"}),
        ("hash_grid=compiled", {"hash_grid": "compiled"}),
    ],
)  # fmt: skip
def test_one_variable_chooses_for_all_and_for_each(text, expected, monkeypatch):
    monkeypatch.setenv(VARIABLE, text)
    assert {name: kernel.choice() for name, kernel in KERNELS.items()} == dict.fromkeys(KERNELS, "auto") | expected


@pytest.mark.parametrize("text", ["fastest", "torch", "tiny_mlp=compiled", "compiled", "tiny_mpl=off", "tiny_mlp=", "off=tiny_mlp"])
def test_what_it_may_not_say_is_one_line_that_names_the_kernels(text, monkeypatch):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(SpinnerfError, match="auto, off, native.*tiny_mlp") as raised:
        max_flow.KERNEL.is_used()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("variable, name", OLD.items())
def test_the_variables_of_version_01_are_understood(variable, name, monkeypatch):
    kernel = KERNELS[name]
    monkeypatch.setenv(variable, kernel.other)
    assert kernel.choice() == "off" and not kernel.is_used()
    assert all(other.choice() == "auto" for other in KERNELS.values() if other is not kernel)
    monkeypatch.setenv(VARIABLE, f"{name}=auto")  # the new one has the last word
    assert kernel.choice() == "auto"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv(variable, "fastest")
    with pytest.raises(SpinnerfError, match=f"{variable}=fastest .*SPINNERF_KERNELS={name}=auto"):
        kernel.choice()


def test_set_up_builds_what_commands_load(monkeypatch, tmp_path, capsys):
    """A kernel's own flags stand in its file, so that whoever builds it builds the same."""
    built = []
    monkeypatch.setattr(kernels, "_load_variant", lambda source, flags: built.append((source.stem, flags)))
    kernels.build_all()
    by_setup = dict(built)
    built.clear()
    for kernel in KERNELS.values():
        kernels.load_kernel(kernel.source)
    assert dict(built) == {name: by_setup[name] for name in KERNELS}
    assert "-ffp-contract=fast" in by_setup["tiny_mlp"] and "-ffp-contract=fast" not in by_setup["hash_grid"]


def test_an_attribute_is_replaced_for_a_while():
    class Base:
        inherited = 1

    class Owner(Base):
        own = 2

    for target in (Owner, Owner()):
        with pytest.raises(ZeroDivisionError), replaced(target, own=3, inherited=4):
            assert (target.own, target.inherited) == (3, 4)
            raise ZeroDivisionError
        assert (target.own, target.inherited) == (2, 1) and "inherited" not in vars(target)
    with pytest.raises(AttributeError), replaced(Owner, misspelt=1):
        pass
