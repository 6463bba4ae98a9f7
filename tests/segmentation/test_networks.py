"""How SAM and SAM 2 are driven, on small networks: against the libraries' own interfaces, and what is run how often."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import save_object_mask
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.segmenters.promptable import replay
from spinnerf_ns.segmentation.trackers.sam2 import Sam2Tracker
from tests.segmentation.conftest import moving_disc, texture
from tests.segmentation.networks import write_sam2

IMAGE = texture(60, 90, 8)
CLICK = Prompt("a", points=((40.0, 30.0),), labels=(1,))
CLICKS = Prompt("a", points=((40.0, 30.0), (10.0, 50.0)), labels=(1, 0))


@pytest.fixture
def sam(sam_file):
    return SEGMENTERS.create("sam", model="small", checkpoint=sam_file, device="cpu")


@pytest.fixture
def sam2(sam2_folder):
    return SEGMENTERS.create("sam2", checkpoint=sam2_folder, device="cpu")


@pytest.fixture(params=["sam", "sam2"])
def segmenter(request):
    return request.getfixturevalue(request.param)


@contextmanager
def counted(module):
    """Counts a torch module's forward calls."""
    calls = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def encoder(segmenter):
    """The image encoder of a segmenter's network."""
    return segmenter._predictor().model.image_encoder if segmenter.name == "sam" else segmenter._network()[0].vision_encoder


# ------------------------------------------------------------------------------------------------------------------ clicks
def test_clicks_are_replayed_one_by_one() -> None:
    prompt = Prompt("a", points=((1, 1), (2, 2), (3, 3), (4, 4)), labels=(0, 1, 0, 1))
    steps = list(replay(prompt, None))
    assert [len(step.points) for step in steps] == [2, 3, 4]  # a point beside the object says nothing by itself
    assert not any(step.ambiguous for step in steps)
    assert [step.ambiguous for step in replay(CLICKS, None)] == [True, False]
    steps = list(replay(prompt, (0, 0, 9, 9)))
    assert [len(step.points) for step in steps] == [0, 1, 2, 3, 4] and not steps[0].ambiguous


def test_sam_is_asked_as_its_own_predictor_is(sam) -> None:
    """One ambiguous click: the best of three; the second click: with the logits of the first answer."""
    predictor = sam._predictor()
    found = [sam.segment(IMAGE, CLICK), sam.segment(IMAGE, CLICKS)]
    predictor.set_image(IMAGE)
    half = 0.5 * np.array([90 / 64, 60 / 43])  # pixels of the photo per pixel of its input: SAM's points are indices
    points = np.array(CLICKS.points) - half
    masks, scores, logits = predictor.predict(points[:1], np.array([1]), multimask_output=True)
    best = int(np.argmax(scores))
    assert masks.shape[0] == 3 and (found[0] == masks[best]).all()
    masks, _, _ = predictor.predict(points, np.array([1, 0]), mask_input=logits[best : best + 1], multimask_output=False)
    assert (found[1] == masks[0]).all()
    without, _, _ = predictor.predict(points, np.array([1, 0]), multimask_output=False)
    assert (found[1] != without[0]).any()  # the logits say something


def test_sam2_is_asked_as_its_own_processor_says(sam2) -> None:
    import torch

    network, processor = sam2._network()
    inputs = processor(images=IMAGE, input_points=[[[[40.0, 30.0]]]], input_labels=[[[1]]], return_tensors="pt")
    inputs["input_points"] -= 0.5
    with torch.inference_mode():
        answer = network(**inputs)
    best = int(answer.iou_scores[0, 0].argmax())
    mask = processor.post_process_masks(answer.pred_masks, [(60, 90)])[0][0, best].numpy()
    assert answer.iou_scores.shape[-1] == 3 and (sam2.segment(IMAGE, CLICK) == mask).all()


def test_a_rough_mask_says_more_than_its_box(segmenter, tmp_path) -> None:
    rough = np.zeros((60, 90), bool)
    rough[10:50, 20:30] = rough[40:50, 20:70] = True
    save_object_mask(tmp_path / "rough.png", rough)
    found = segmenter.segment(IMAGE, Prompt("a", mask_path=tmp_path / "rough.png"))
    assert (found != segmenter.segment(IMAGE, Prompt("a", box=(20, 10, 70, 50)))).any()


# ------------------------------------------------------------------------------------------------------------------- cache
def test_a_second_click_does_not_run_the_image_encoder(segmenter, tmp_path) -> None:
    segmenter.cache_folder = tmp_path / "embeddings"
    with counted(encoder(segmenter)) as calls:
        segmenter.segment(IMAGE, CLICK)
        assert len(calls) == 1
        first = segmenter.segment(IMAGE, CLICKS)
        assert len(calls) == 1
    again = SEGMENTERS.create(segmenter.name, **vars_of(segmenter))  # another process, as it were
    again.cache_folder = tmp_path / "embeddings"
    with counted(encoder(again)) as calls:
        assert (again.segment(IMAGE, CLICKS) == first).all()
        assert not calls
        again.segment(IMAGE[::-1].copy(), CLICK)  # another photo
        assert len(calls) == 1
    names = sorted(path.name for path in (tmp_path / "embeddings").iterdir())
    assert len(names) == 2 and all(name.endswith(".npz") and not name.startswith(".") for name in names)


def test_a_damaged_embedding_is_made_again(segmenter, tmp_path) -> None:
    segmenter.cache_folder = tmp_path
    found = segmenter.segment(IMAGE, CLICK)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    again = SEGMENTERS.create(segmenter.name, **vars_of(segmenter))
    again.cache_folder = tmp_path
    assert (again.segment(IMAGE, CLICK) == found).all()
    assert file.stat().st_size == len(whole)


def test_another_checkpoint_has_other_embeddings(sam2, tmp_path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = write_sam2(tmp_path / "other")
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor + 0.01 * torch.ones_like(tensor) for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    other = SEGMENTERS.create("sam2", checkpoint=folder, device="cpu")
    for segmenter in (sam2, other):
        segmenter.cache_folder = tmp_path / "embeddings"
        segmenter.segment(IMAGE, CLICK)
    assert len(list((tmp_path / "embeddings").iterdir())) == 2


def vars_of(segmenter) -> dict:
    """Its options."""
    return {name: getattr(segmenter, name) for name in ("model", "checkpoint", "device")}


# --------------------------------------------------------------------------------------------------------------- bad files
def test_bad_checkpoints_are_refused_in_one_line(tmp_path, sam_file, sam2_folder) -> None:
    import torch

    def message(backend) -> str:
        with pytest.raises(SpinnerfError) as error:
            backend.segment(IMAGE, CLICK)
        assert "\n" not in str(error.value)
        return str(error.value)

    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    other = SEGMENTERS.create("sam", model="small", checkpoint=tmp_path / "other.pth")
    assert "other.pth: are no weights of SAM's small" in message(other)
    (tmp_path / "short.pth").write_bytes(sam_file.read_bytes()[:1000])
    assert "short.pth: cannot be read" in message(SEGMENTERS.create("sam", model="small", checkpoint=tmp_path / "short.pth"))
    assert "absent.pth: this checkpoint is missing" in message(SEGMENTERS.create("sam", checkpoint=tmp_path / "absent.pth"))
    assert "no model 'vit_x'; there are: vit_h" in message(SEGMENTERS.create("sam", model="vit_x"))
    folder = tmp_path / "short"
    folder.mkdir()
    for file in sam2_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    assert "short: cannot be read as Sam2Model" in message(SEGMENTERS.create("sam2", checkpoint=folder))


def test_a_folder_of_another_network_is_refused(grounding_dino_folder) -> None:
    tracker = Sam2Tracker(checkpoint=grounding_dino_folder, device="cpu")
    with pytest.raises(SpinnerfError, match="another network's|cannot be read") as error:
        tracker.track([lambda: IMAGE], {0: np.ones((60, 90), bool)})
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------------------- tracking
def readers(images):
    return [lambda image=image: image for image in images]


@pytest.fixture
def tracker(sam2_folder):
    return Sam2Tracker(checkpoint=sam2_folder, device="cpu")


def test_tracking_streams_as_the_whole_video_would(tracker) -> None:
    """The same masks as the library's own propagation through a video that it holds as a whole."""
    import torch

    from spinnerf_ns.segmentation.pretrained import load_folder

    images, masks = moving_disc(6)
    tracked = tracker.track(readers(images), {2: masks[2]})
    network, processor = load_folder("x", tracker.checkpoint, "Sam2VideoModel", "Sam2VideoProcessor", "cpu", "a test")
    # Frames one by one through the image processor: the video processor scales a little differently.
    session = processor.init_video_session()
    for image in images:
        session.add_new_frame(processor(images=image, return_tensors="pt")["pixel_values"])
    session.video_height, session.video_width = 96, 96
    processor.add_inputs_to_inference_session(session, frame_idx=2, obj_ids=1, input_masks=[masks[2]])
    expected = {}
    with torch.inference_mode():
        network(session, frame_idx=2)
        for reverse in (False, True):
            for answer in network.propagate_in_video_iterator(session, start_frame_idx=2, reverse=reverse):
                found = processor.post_process_masks([answer.pred_masks], [(96, 96)])[0][0, 0].numpy()
                expected[answer.frame_idx] = found
    assert sorted(expected) == list(range(6))
    for index in (0, 1, 3, 4, 5):
        assert (tracked[index] != expected[index]).mean() < 0.01  # it counts its pointers from the photos it holds


def test_several_objects_share_the_encoding_and_nothing_else(tracker, monkeypatch) -> None:
    images, masks = moving_disc()
    other = np.zeros((96, 96), bool)
    other[10:30, 10:40] = True
    calls = []
    from transformers import Sam2VideoModel

    encode = Sam2VideoModel.get_image_features
    monkeypatch.setattr(Sam2VideoModel, "get_image_features", lambda *a, **k: calls.append(1) or encode(*a, **k))
    alone = [tracker.track(readers(images), {2: masks[2]}), tracker.track(readers(images), {2: other})]
    assert len(calls) == 2 * 5
    calls.clear()
    both = tracker.track_objects(readers(images), {"disc": {2: masks[2]}, "box": {2: other}})
    assert len(calls) == 5
    for found, expected in zip((both["disc"], both["box"]), alone):
        assert all((first == second).all() for first, second in zip(found, expected))
    assert any((first != second).any() for first, second in zip(both["disc"], both["box"]))


def test_objects_that_start_in_different_photos(tracker) -> None:
    images, masks = moving_disc()
    seen = []
    both = tracker.track_objects(readers(images), {1: {0: masks[0]}, 2: {3: masks[3], 4: masks[4]}}, seen.append)
    alone = tracker.track(readers(images), {3: masks[3], 4: masks[4]})
    assert all((first == second).all() for first, second in zip(both[2], alone))
    assert all(found is not None for found in both[1]) and sorted(seen) == [0, 1, 2, 3, 4]


def test_memory_does_not_grow_with_the_photos(tracker, monkeypatch) -> None:
    """Photos far behind are forgotten, without a change in what is found."""
    from spinnerf_ns.segmentation.trackers import sam2

    images, masks = moving_disc(3)
    images, sessions = images * 16, []
    look = sam2._Run._look
    monkeypatch.setattr(sam2._Run, "_look", lambda *a, **k: sessions.append(a[1].session) or look(*a, **k))
    forgetful = tracker.track(readers(images), {2: masks[2]})
    session = sessions[-1]
    assert len(session.output_dict_per_obj[0]["non_cond_frame_outputs"]) < 40 and not session.processed_frames
    monkeypatch.setattr(sam2._Run, "_forget", lambda *_: None)
    everything = tracker.track(readers(images), {2: masks[2]})
    for first, second in zip(forgetful, everything):
        assert (first is None) == (second is None) and (first is None or (first == second).all())
