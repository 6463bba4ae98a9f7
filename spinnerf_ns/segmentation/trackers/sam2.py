"""SAM 2's video network (package transformers) carries objects along the camera path, photo by photo.

The photos, in the order of the camera path, are its video: read one at a time, scaled to the network's square input, and
forgotten again. Photos that somebody said something about come first and stay in its memory for good. From the first of
them it goes forwards to the last photo, then backwards to the first one. Several objects share nothing but each photo's
encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.segmentation.pretrained import find_weights, load_folder, need_package, pick_device
from spinnerf_ns.segmentation.prompts import check_source
from spinnerf_ns.segmentation.segmenters.sam2 import DEFAULT_MODEL

SESSION_OBJECT = 1
"""Each object has a session of its own, in which it is called this."""


@dataclass
class Sam2Tracker:
    """Segment Anything 2 along the camera path. Weights `sam2.1-hiera-...`; Apache-2.0."""

    model: str = DEFAULT_MODEL
    """Which network: sam2.1-hiera-tiny, -small, -base-plus or -large."""
    checkpoint: Path | None = None
    """A model folder in place of the published one, in the same format."""
    device: str = "auto"
    """Where the network runs; auto: the GPU where there is one."""

    name = "sam2"

    def ensure(self) -> None:
        """Raises SpinnerfError if the package or the weights can't be had; fetches them if that is allowed."""
        need_package("transformers", "sam2", "tracker 'sam2'")
        find_weights(self.model, self.checkpoint)

    def track(
        self,
        images: Sequence[Callable[[], Image]],
        source_masks: dict[int, BoolMask],
        progress: Callable[[int], None] | None = None,
    ) -> list[BoolMask | None]:
        """Masks in all photos, from masks in some.

        Args:
            images: one function per photo, in the order of the camera path, that reads it: (H, W, 3) uint8 RGB; sizes may
                differ.
            source_masks: index of a photo -> (H, W) bool, True = object; returned as they are.
            progress: called with a photo's index when it is done.

        Returns:
            Per photo (H, W) bool at its full size, or None where the network does not see the object.

        Raises:
            SpinnerfError: no source mask, an index that is no photo's, a mask of another size than its photo; the package or
                the weights can't be had.
        """
        return self.track_objects(images, {SESSION_OBJECT: source_masks}, progress)[SESSION_OBJECT]

    def track_objects(
        self,
        images: Sequence[Callable[[], Image]],
        objects: Mapping[Hashable, Mapping[int, BoolMask]],
        progress: Callable[[int], None] | None = None,
    ) -> dict[Hashable, list[BoolMask | None]]:
        """As `track`, for several objects.

        Args:
            images: as for `track`.
            objects: an object -> its `source_masks`, as for `track`.
            progress: as for `track`.

        Returns:
            An object -> what `track` returns.

        Raises:
            SpinnerfError: as for `track`.
        """
        for source_masks in objects.values() or [{}]:
            for index in source_masks or [None]:
                check_source(self.name, index, len(images))
        run = _Run(self, images, objects)
        done: set[int] = set()

        def report(index: int) -> None:
            if progress is not None and index not in done:
                progress(index)
            done.add(index)

        run.take_masks()
        starts = [min(track.prompted) for track in run.tracks if track.prompted]
        if starts:
            for index in range(min(starts), len(images)):
                run.step(index, reverse=False)
                if all(start <= index for start in starts):
                    report(index)  # the rest is seen by some object on the way back only
            for index in range(max(starts), -1, -1):
                run.step(index, reverse=True)
                report(index)
        for index in range(len(images)):
            report(index)
        return {track.name: track.masks for track in run.tracks}


class _Track:
    """One object: its given masks, what is known so far, and the network's memory of it."""

    def __init__(self, name: Hashable, given: Mapping[int, BoolMask], session: Any, count: int) -> None:
        self.name, self.given, self.session = name, given, session
        self.masks: list[BoolMask | None] = [None] * count
        self.prompted: list[int] = []
        """Photos that the network was told about: not those whose given mask is empty."""

    def waits_for(self, index: int, reverse: bool) -> bool:
        """Whether the network is to look for the object in this photo, on this way."""
        if not self.prompted or index in self.given:
            return False
        start = min(self.prompted)
        return index < start if reverse else index > start


class _Run:
    """One video: the network, its sessions, and one photo at a time."""

    def __init__(
        self,
        options: Sam2Tracker,
        images: Sequence[Callable[[], Image]],
        objects: Mapping[Hashable, Mapping[int, BoolMask]],
    ) -> None:
        self.images = images
        self.network, self.processor = load_folder(
            options.model,
            options.checkpoint,
            "Sam2VideoModel",
            "Sam2VideoProcessor",
            pick_device(options.device),
            "tracker 'sam2'",
        )
        self.tracks = []
        for name, given in objects.items():
            session = self.processor.init_video_session(inference_device=self.network.device)
            if self.tracks:
                session.cache = self.tracks[0].session.cache  # a photo is encoded once for all objects
            self.tracks.append(_Track(name, given, session, len(images)))
        config = self.network.config
        self.memory = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        self._photo: tuple[int, Any, tuple[int, int]] | None = None

    def photo(self, index: int) -> tuple[Any, tuple[int, int]]:
        """The network's input for a photo, and its (height, width)."""
        if self._photo is None or self._photo[0] != index:
            image = self.images[index]()
            pixels = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
            self._photo = (index, pixels.to(self.network.device), (image.shape[0], image.shape[1]))
        return self._photo[1:]

    # ------------------------------------------------------------------------------------------------------------ steps
    def take_masks(self) -> None:
        """Tells the network of the given masks, photo by photo."""
        for index in sorted({index for track in self.tracks for index in track.given}):
            _, size = self.photo(index)
            for track in self.tracks:
                if index not in track.given:
                    continue
                given = np.asarray(track.given[index], dtype=bool)
                check_source("sam2", index, len(self.images), given.shape, size)
                if given.any():
                    self.processor.add_inputs_to_inference_session(
                        inference_session=track.session,
                        frame_idx=index,
                        obj_ids=SESSION_OBJECT,
                        original_size=size,
                        input_masks=[given],
                    )
                    self._look(track, index, reverse=False)
                    track.prompted.append(index)
                track.masks[index] = given

    def step(self, index: int, reverse: bool) -> None:
        """Looks for the objects in a photo."""
        for track in self.tracks:
            if track.waits_for(index, reverse):
                track.masks[index] = self._look(track, index, reverse)
                self._forget(track, index)

    def _look(self, track: _Track, index: int, reverse: bool) -> BoolMask | None:
        """Runs the network on one photo; (H, W) bool, or None if it does not see the object."""
        import torch

        pixels, size = self.photo(index)
        with torch.inference_mode():
            answer = self.network(track.session, frame=pixels, frame_idx=index, reverse=reverse)
            found = self.processor.post_process_masks([answer.pred_masks], original_sizes=[size])[0][0, 0]
        track.session.processed_frames.clear()  # its features stay cached until the next photo
        object_mask = found.cpu().numpy()
        return object_mask if object_mask.any() else None

    def _forget(self, track: _Track, index: int) -> None:
        """Drops what the network will not look at again: memory must not grow with the number of photos."""
        remembered = track.session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        start = min(track.prompted)
        for other in list(remembered):
            if abs(other - index) > self.memory and abs(other - start) > self.memory:
                del remembered[other]
            else:
                remembered[other].pop("high_res_masks", None)  # the memory is encoded from it by now
