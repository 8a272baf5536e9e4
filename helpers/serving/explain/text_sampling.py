"""AnchorText's sampler for masked words, which keeps masks and not a character matrix.

alibi holds every draw as a matrix of words, each cell as wide as the longest text there could be: a text of a
hundred words takes gigabytes. This sampler draws the very same masks from NumPy's generator, so the anchor, its
precision and its coverage are alibi's own under the same seed.

Import alibi's AnchorText before this, with TensorFlow out of sight if it is not needed.
"""

from __future__ import annotations

import numpy as np
from alibi.explainers.anchors.text_samplers import UnknownSampler


class MaskSampler(UnknownSampler):
    """Replaces words by UNK at random; the arguments are those of alibi's sampler."""

    def __call__(self, anchor: tuple, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Return texts (num_samples,), and which words each has kept, 1.0 or 0.0."""
        kept = np.ones((num_samples, len(self.words)))
        for place in range(len(self.words)):
            if place in anchor:
                continue
            masked = np.random.binomial(num_samples, self.perturb_opts["sample_proba"])
            kept[np.random.choice(num_samples, masked, replace=False), place] = 0
        texts = np.empty(num_samples, object)
        texts[:] = [
            " ".join(
                [word if told else self.UNK for word, told in zip(self.words, row, strict=True)]
            )
            for row in kept.tolist()
        ]
        return texts, kept
