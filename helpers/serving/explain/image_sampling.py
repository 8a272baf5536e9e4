"""AnchorImage's sampler, which builds and asks about each distinct image once.

alibi builds every perturbed image of every draw anew: thousands of copies of, with 5 superpixels, 32 images.
This sampler draws the very same random masks from NumPy's generator, so the anchor, its precision and its
coverage are alibi's own under the same seed; it only knows the answer for a mask that it has met.

Call `lean_alibi.prepare_alibi` before this is imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from alibi.explainers.anchors import anchor_image
from alibi.explainers.anchors.anchor_image import AnchorImageSampler

FORESEEN_SUPERPIXELS = 6  # up to 2**6 images are asked about in one call before the search begins


@dataclass(slots=True)
class Drawn:
    """How many perturbed images a search drew."""

    samples: int = 0


class DistinctImageSampler(AnchorImageSampler):
    """Draws masks as alibi's sampler does; the arguments but `drawn` are those of alibi's sampler."""

    def __init__(
        self,
        predictor: Callable[[np.ndarray], np.ndarray],
        segmentation_fn: Callable[[np.ndarray], np.ndarray],
        custom_segmentation: bool,
        image: np.ndarray,
        images_background: np.ndarray | None = None,
        p_sample: float = 0.5,
        n_covered_ex: int = 10,
        *,
        drawn: Drawn,
    ) -> None:
        # Not alibi's own __init__: it asks about the image first, in a call of its own.
        self.predictor = predictor
        self.segmentation_fn = segmentation_fn
        self.custom_segmentation = custom_segmentation
        self.image = image
        self.images_background = images_background
        self.n_covered_ex = n_covered_ex
        self.p_sample = p_sample
        self.drawn = drawn
        self.segments = self.generate_superpixels(image)
        self.segment_labels = list(np.unique(self.segments))
        self.averaged = _averaged(image, self.segments)
        self._labels: dict[bytes, Any] = {}
        self._examples: dict[bytes, np.ndarray] = {}
        count = len(self.segment_labels)
        if count <= FORESEEN_SUPERPIXELS:
            masks = np.array(list(itertools.product((0, 1), repeat=count)))
        else:
            masks = np.ones((1, count), int)
        self.labels_of(masks)
        self.instance_label = self.labels_of(np.ones((1, count), int))[0]

    def __call__(
        self, anchor: tuple[int, tuple], num_samples: int, compute_labels: bool = True
    ) -> list:
        """Return what alibi's sampler returns: examples, labels, masks, -1.0 and the position."""
        if not compute_labels:
            return super().__call__(anchor, num_samples, compute_labels=False)
        masks = self._choose_superpixels(num_samples, p_sample=self.p_sample)
        masks[:, anchor[1]] = 1
        self.drawn.samples += num_samples
        labels = self.labels_of(masks) == self.instance_label
        return [
            self._examples_of(masks[labels]),
            self._examples_of(masks[~labels]),
            labels.astype(int),
            masks,
            -1.0,
            anchor[0],
        ]

    def labels_of(self, masks: np.ndarray) -> np.ndarray:
        """Return the model's class for each mask (n, superpixels): 1 keeps a superpixel, 0 averages it."""
        keys = [mask.tobytes() for mask in masks.astype(np.int8)]
        new = {key: row for row, key in enumerate(keys) if key not in self._labels}
        if new:
            images = np.stack([self._build(masks[row]) for row in new.values()])
            self._labels |= zip(new, self.predictor(images), strict=True)
        return np.array([self._labels[key] for key in keys])

    def _build(self, mask: np.ndarray) -> np.ndarray:
        """Return the image with the superpixels averaged that the mask has 0 for."""
        kept = np.ones(int(self.segments.max()) + 1, bool)
        kept[: len(mask)] = mask == 1
        return np.where(kept[self.segments][..., None], self.image, self.averaged)

    def _examples_of(self, masks: np.ndarray) -> list[np.ndarray]:
        examples = []
        for mask in masks[: self.n_covered_ex]:
            key = mask.astype(np.int8).tobytes()
            if key not in self._examples:
                self._examples[key] = scale_image(self._build(mask))
            examples.append(self._examples[key])
        return examples


def _averaged(image: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the image with every superpixel at its mean colour, computed as alibi does."""
    averaged = image.copy()
    for label in np.unique(segments):
        inside = segments == label
        averaged[inside] = [np.mean(image[inside][:, i]) for i in range(image.shape[-1])]
    return averaged


def scale_image(image: np.ndarray, scale: tuple[float, float] = (0, 255)) -> np.ndarray:
    """Stretch an image to `scale`, as alibi does; an image of one colour, for which alibi divides by
    zero, becomes the lower end."""
    low, high = image.min(), image.max()
    if low == high:
        return np.full_like(image, scale[0])
    return (image - low) / (high - low) * (scale[1] - scale[0]) + scale[0]


@contextmanager
def distinct_images(explainer: Any, wanted: bool = True) -> Iterator[Drawn]:
    """Let `AnchorImage.explain` use this sampler inside the block.

    With background images a mask does not determine the image: alibi's own sampler stays then. Not
    for two threads at a time.
    """
    drawn = Drawn()
    changed: dict[str, Any] = {"scale_image": scale_image}
    if wanted and explainer.images_background is None:
        changed["AnchorImageSampler"] = partial(DistinctImageSampler, drawn=drawn)
    before = {name: getattr(anchor_image, name) for name in changed}
    vars(anchor_image).update(changed)
    try:
        yield drawn
    finally:
        vars(anchor_image).update(before)
