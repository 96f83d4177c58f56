"""Zero-shot classification with a tokenizer that aligns images with text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric


def needs(p: Fields) -> Mapping[str, Need]:
    """Images and captions in one space."""
    args = (("template", p["zero_shot_template"]),)
    return {head: Need("encoder_features", head, args=args) for head in ("aligned", "text", "caption")}


@metric(
    "zero_shot_accuracy",
    needs=needs,
    unit="%",
    better="higher",
    fields=("zero_shot_template",),
    title="Share of images whose nearest text is their own: classes are the distinct captions of the set",
    source="Radford et al. 2021, arXiv 2103.00020: cosine of image and text features, a single template",
    tolerance=1e-2,
    groups=50,
)
def zero_shot_accuracy(m: Measurements, p: Fields) -> Iterator[Value]:
    """Percent, of the images with a caption (a class's name beside the image or in the metadata). notes: classes, chance, the template; tap=aligned."""
    image, text = m["aligned"].array(), m["text"].array()
    captions = np.asarray(m["caption"].array())
    named = captions != ""
    why = ""
    if not image.size or not text.size:
        why = "the model does not align with text"
    elif len(np.unique(captions[named])) < 2:
        why = "the samples have no two captions to tell apart: class names stand beside the images (x.txt) or in the metadata (caption)"
    if why:
        yield Value(status="skipped", why=why, slice="tap=aligned")
        return
    classes, first, own = np.unique(captions[named], return_index=True, return_inverse=True)
    words, pictures = text[named][first].astype(np.float64), image[named].astype(np.float64)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    right = (pictures @ words.T).argmax(1) == own
    notes = {
        "classes": len(classes),
        "chance": 100.0 / len(classes),
        "template": p["zero_shot_template"],
        "tap": "aligned",
    }
    yield Value(samples=100.0 * right, image=m["aligned"].image[named], slice="tap=aligned", notes=notes, keep=False)
