"""Causes on models whose metric is a formula (`closed_forms`): the part that bends is the part that is named."""

import closed_forms
import pytest
from closed_forms import CLOSE

import veracausa as vc

#: Form → cause of a0.h0's curvature, the sublayer where all of it arises. A product of two heads has none.
CAUSES = {
    "product": ("none", None),
    "maximum": ("MLP", "m0"),
    "softmax": ("softmax", "a1"),
    "backup": ("softmax", "a1"),
    "both": ("MLP", "m0"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_causes(name):
    form, (cause, place) = closed_forms.FORMS[name](), CAUSES[name]
    found = vc.causes.locate(form.lm, form.task, units=["a0.h0"], show_progress=False)
    one = found["a0.h0"]
    curvature = (form.exact - form.atp)[:, 0]
    share = float(curvature.mean() / found.gap.mean())
    # over its few pairs the curvature of "both" is not told from 0 by Student's t, so no kind is named alone
    assert one.cause == ("several" if name == "both" else cause)
    assert one.curvature.value == pytest.approx(share, abs=CLOSE)
    if place is not None:
        assert one.kinds[cause].value == pytest.approx(share, abs=CLOSE)
        assert one.sublayers[place].value == pytest.approx(share, abs=CLOSE)
        assert place in one.sentence
    if name == "softmax":
        assert one.heads["a1.h0"].value == pytest.approx(share, abs=CLOSE)
        # σ(s) on the prompt's second token: clean all of it, so that the slope is 0
        largest = form.clean[:, 0].sigmoid()
        assert one.saturation.head == "a1.h0"
        assert one.saturation.largest[:, 0].tolist() == pytest.approx(largest.tolist(), abs=CLOSE)
        assert one.saturation.entropy[:, 0].max() < 1e-6
