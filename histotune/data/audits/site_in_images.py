"""How well images tell their site: the signature of a laboratory's stain and scanner."""

from __future__ import annotations

import numpy as np

from histotune.data.audits import _predict
from histotune.data.audits._base import AUDITS, NOTE, Finding, Subject
from histotune.data.audits.mean_colour import colours


@AUDITS.register(
    "site_in_images", source="Howard et al., The impact of site-specific digital histology signatures, Nat Commun 2021"
)
def site_in_images(subject: Subject) -> Finding:
    """How well an image's mean colour tells its site; harmful where the site tells the label, see `site_label`."""
    image = next(subject.images(), None)
    if image is None:
        return subject.skipped("site_in_images", "there are no images")
    here = subject.placed[image[1].present[subject.placed]]
    rows = _predict.sample(here[subject.sites[here] != ""])
    names, codes = np.unique(subject.sites[rows], return_inverse=True)
    if len(names) < 2:
        return subject.skipped(
            "site_in_images", f"all images are of one site, {names[0]}" if len(names) else "no site is known"
        )
    text = _predict.tell(_predict.smooth(), colours(image[1].stored, rows), codes, subject.patients[rows])
    advice = "jitter the stain (augment.stain_jitter), and split by site to see what a model makes of it"
    return _predict.judge("site_in_images", subject, rows, text, "mean colour", NOTE, advice, of="site")
