"""Training in two processes (gloo, on the CPU): other rays in each, one field, the same refined masks, one process that writes."""

from __future__ import annotations

import socket
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

STEPS = 4


def train_in_one_process(rank: int, ranks: int, port: int, scene: Path, folder: Path) -> None:
    """What nerfstudio's trainer does in each of its processes; nerfstudio itself starts several for GPUs alone."""
    from nerfstudio.engine.callbacks import TrainingCallbackLocation
    from nerfstudio.engine.optimizers import Optimizers
    from nerfstudio.pipelines import base_pipeline
    from torch.nn.parallel import DistributedDataParallel

    from spinnerf_ns.accel.replaced import replaced
    from tests.pipelines.conftest import small_config

    sys.stdout = open(folder / f"{rank}.log", "w")  # noqa: SIM115
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=ranks, rank=rank)
    torch.manual_seed(rank)
    config = small_config("spinnerf-seg-lite", **{"pipeline.mask_round_steps": (2,), "pipeline.model.objectness_every": 1})
    config.pipeline.datamanager.data = scene

    class OnCpu(DistributedDataParallel):
        def __init__(self, module, device_ids=None, **options):
            super().__init__(module, **options)

    with replaced(base_pipeline, DDP=OnCpu):
        pipeline = config.pipeline.setup(device="cpu", test_mode="val", world_size=ranks, local_rank=rank)
    optimizers = Optimizers(config.optimizers.copy(), pipeline.get_param_groups())
    trainer = type("Trainer", (), {"_start_step": 0, "checkpoint_dir": folder, "base_dir": folder})()
    attributes = type("Attributes", (), {"optimizers": optimizers, "grad_scaler": None, "pipeline": pipeline, "trainer": trainer})()
    exported = []
    pipeline._export_at_end = lambda attributes, step: exported.append(step)
    callbacks = pipeline.get_training_callbacks(attributes)
    rays = []
    draw = pipeline.datamanager.next_train
    pipeline.datamanager.next_train = lambda step: rays.append(draw(step)) or rays[-1]
    for step in range(STEPS):
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        optimizers.zero_grad_all()
        _, losses, _ = pipeline.get_train_loss_dict(step)
        sum(losses.values()).backward()
        optimizers.optimizer_step_all()
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    for callback in callbacks:
        callback.run_callback_at_location(STEPS, TrainingCallbackLocation.AFTER_TRAIN)
    torch.save(
        {
            "model": pipeline.model.state_dict(), "labels": pipeline.datamanager.labels, "exported": exported,
            "flat": torch.cat([batch["flat"] for _, batch in rays]), "loss": {name: float(loss) for name, loss in losses.items()},
        },
        folder / f"{rank}.pt",
    )  # fmt: skip
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def scene(tmp_path):
    from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
    from spinnerf_ns.files import load_object_mask, save_object_mask
    from spinnerf_ns.scene.workspace import Workspace

    twin = write_twin(tmp_path / "scene", TwinConfig(width=48, height=36, num_train=4, num_test=1, supersampling=1))
    workspace = Workspace.open(twin.root)
    workspace.set_object_free([Path(photo).stem for photo in twin.object_free])
    for photo in twin.train_photos:
        mask = load_object_mask(twin.truth(photo, "object_masks"))
        save_object_mask(workspace.mask_path("masks_2d", Path(photo).stem), mask)
    return twin.root


@pytest.mark.timeout(600)
def test_two_processes_train_one_field(scene, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(partial(train_in_one_process), args=(2, port, scene, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    assert torch.equal(first["labels"], second["labels"])
    assert not torch.equal(first["flat"], second["flat"])  # each its own rays
    assert first["loss"].keys() == second["loss"].keys() and "objectness_loss" in first["loss"]
    assert (first["exported"], second["exported"]) == ([STEPS], [])
