"""Starting the inpainting field from the segmentation field, with the object carved out.

The segmentation field has learned all of the scene that is to stay. Its weights are taken over, and then density alone is
fitted for a few hundred steps to its own density without the object: one hash cell serves many places, so the object cannot
be cut out of a table; it can be unlearned where it stood while everything else is held.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.nerf.background_field import compare_frames
from spinnerf_ns.nerf.base_model import SpinnerfModel
from spinnerf_ns.nerf.seg_model import SpinnerfSegModel, SpinnerfSegModelConfig
from spinnerf_ns.runs import read_config

CARVING_STEPS = 200
"""Steps of fitting density to the carved one."""


def load_segmentation_model(config_path: Path, like: SpinnerfModel) -> SpinnerfSegModel:
    """The model of a finished spinnerf-seg run.

    Args:
        config_path: the run's config.yml.
        like: a model of the same scene; gives scene box, photo count and bounds.

    Raises:
        SpinnerfError: no such run, no checkpoint in it, another method's, or grids of another size than `like` has.
    """
    wanted = "--pipeline.model.init-from wants a spinnerf-seg run's config.yml"
    config = read_config(config_path, wanted)
    if not isinstance(config.pipeline.model, SpinnerfSegModelConfig):
        raise SpinnerfError(f"{config_path}: not a spinnerf-seg run; {wanted}")
    checkpoints = sorted((config_path.parent / "nerfstudio_models").glob("step-*.ckpt"))
    if not checkpoints:
        raise SpinnerfError(f"{config_path.parent / 'nerfstudio_models'}: no checkpoint; let the run save one first")
    model = config.pipeline.model.setup(
        scene_box=like.scene_box, num_train_data=like.num_train_data, metadata=like.kwargs.get("metadata")
    )
    state = torch.load(checkpoints[-1], map_location="cpu", weights_only=True)["pipeline"]
    state = {key.removeprefix("_model.").removeprefix("module."): value for key, value in state.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise SpinnerfError(f"{checkpoints[-1]}: does not fit its config.yml ({str(error).splitlines()[0]})") from error
    return model.to(like.device).eval()


def check_same_frame(config_path: Path, transform: Tensor, scale: float) -> None:
    """Refuses a run whose cameras stand in another frame: its field would be moved against this one's.

    Args:
        config_path: the run's config.yml; nerfstudio writes dataparser_transforms.json beside it.
        transform: (3, 4) this dataset's transform into the training frame.
        scale: and its scale.
    """
    path = config_path.parent / "dataparser_transforms.json"
    if not path.is_file():
        return
    found = json.loads(path.read_text())
    difference, same = compare_frames(torch.tensor(found["transform"]), found["scale"], transform, scale)
    if not same:
        raise SpinnerfError(
            f"{config_path}: its training frame differs from this dataset's (by {difference:.2g}, scale {found['scale']:.5g} "
            f"against {scale:.5g}); start from the run that this dataset was exported from"
        )


def start_from(model: SpinnerfModel, teacher: SpinnerfSegModel, manager, steps: int = CARVING_STEPS) -> None:
    """Takes over a segmentation model's field and unlearns the object in it.

    Args:
        model: the model to start; its field and proposal networks are overwritten.
        teacher: the segmentation model.
        manager: the inpainting data manager, whose rays through and around the removed region are used.
        steps: fitting steps.

    Raises:
        SpinnerfError: the models' grids differ in size.
    """
    for name in ("field", "proposal_networks"):
        try:
            getattr(model, name).load_state_dict(getattr(teacher, name).state_dict(), strict=True)
        except RuntimeError as error:
            raise SpinnerfError(
                f"--pipeline.model.init-from: the two methods' grids differ ({str(error).splitlines()[-1].strip()}); "
                "use the -lite methods for both stages, or for neither"
            ) from error
    networks = [*model.proposal_networks, model.field]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3, eps=1e-15)
    for _ in track(range(steps), "Carving the object out", transient=True):
        rays = _nears_and_fars(model, manager.carving_rays())
        samples, targets = _targets(teacher, rays)
        loss = torch.zeros((), device=model.device)
        for network, at, target in zip(networks, samples, targets, strict=True):
            loss = loss + (_opacity(network.get_density(at)[0], at) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    CONSOLE.print(f"Started from the segmentation field; carving loss {float(loss.detach()):.2g}")


@torch.no_grad()
def _targets(teacher: SpinnerfSegModel, rays: RayBundle) -> tuple[list[RaySamples], list[Tensor]]:
    """Per network the samples, alternately where the object is and where what lies behind it is, and opacity without it."""
    plain = teacher.proposal_sampler(rays, density_fns=teacher.density_fns)
    with teacher.object_carved_out():
        behind = teacher.proposal_sampler(rays, density_fns=teacher.density_fns)
    networks = [*teacher.proposal_networks, teacher.field]
    all_samples, targets = [], []
    for index, network in enumerate(networks):
        source = behind if torch.rand(()) < 0.5 else plain
        samples = source[0] if index == len(networks) - 1 else source[2][index]
        density = network.get_density(samples)[0]
        kept = teacher.kept(teacher.objectness_logits(samples.frustums.get_positions()))
        all_samples.append(samples)
        targets.append(_opacity(density * kept, samples))
    return all_samples, targets


def _opacity(density: Tensor, samples: RaySamples) -> Tensor:
    # Opacity, not density: a wall's density may be anything large, and squared errors of it would drown the rest.
    return 1.0 - torch.exp(-density * samples.deltas)


def _nears_and_fars(model: SpinnerfModel, rays: RayBundle) -> RayBundle:
    return model.collider(rays) if model.collider is not None else rays
