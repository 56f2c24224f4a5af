"""Forecasts: told with what they leave out, corrected by what has run, and said in words."""

import pytest

from veracausa.cost import Step, after, corrected, told


def step(what: str, kind: str, seconds: float | None) -> Step:
    return Step(what, kind, 1000.0, 2.0, seconds)


PLAN = [
    step("heads", "exact", 10.0),
    step("paths", "paths", 40.0),
    step("neurons", "exact", 100.0),
    step("more paths", "paths", 60.0),
    step("places", "locating", 30.0),
]


def seconds(steps):
    return [one.seconds for one in steps]


def test_a_busy_machine_corrects_what_is_left():
    """27 s for 10: everything left is 2.7 times as long; then paths as forecast: they stay, exact effects do not."""
    assert seconds(corrected(PLAN, [])) == [10, 40, 100, 60, 30]
    one = [step("heads", "exact", 27.0)]
    assert seconds(corrected(PLAN, one)) == pytest.approx([108, 270, 162, 81])
    two = [*one, step("paths", "paths", 44.0)]
    # exact × 27/10, paths × 44/40, and places, of which none has run, × (27 + 44)/(10 + 40)
    assert seconds(corrected(PLAN, two)) == pytest.approx([270, 66, 42.6])
    three = [*two, step("neurons", "exact", 193.0)]
    assert seconds(corrected(PLAN, three)) == pytest.approx([66, 30 * (27 + 44 + 193) / 150])


def test_a_step_read_from_finished_pieces_says_nothing_about_speed():
    done = [step("heads", "exact", 0.2)]
    assert seconds(corrected(PLAN, done)) == [40, 100, 60, 30]
    done.append(step("paths", "paths", 60.0))
    assert seconds(corrected(PLAN, done)) == pytest.approx([150, 90, 45])


def test_steps_without_a_forecast_stay_without():
    plan = [step("a", "exact", None), step("b", "exact", None)]
    assert seconds(corrected(plan, [step("a", "exact", 5.0)])) == [None]
    assert after(plan, [step("a", "exact", 5.0)]) == "step 1 of 2 took 5 s: a · 1 step left"


def test_what_is_said_after_a_step():
    done = [step("heads", "exact", 27.0)]
    assert after(PLAN, done) == (
        "step 1 of 5 took 27 s (forecast 10 s): heads · 4 steps left, about 10 min 21 s (3 min 50 s before)"
    )
    done.append(step("paths", "paths", 44.0))
    # before: what was said a step earlier, less the step that has ended since
    assert after(PLAN, done) == (
        "step 2 of 5 took 44 s (forecast 40 s): paths · 3 steps left, about 6 min 19 s (8 min 33 s before)"
    )
    done += [step("neurons", "exact", 200.0), step("more paths", "paths", 119.7), step("places", "locating", 3.0)]
    assert after(PLAN, done) == "step 5 of 5 took 3 s (forecast 30 s): places"
    assert after(PLAN, done[:4]).startswith("step 4 of 5 took 2 min 0 s (forecast 1 min 0 s): more paths · 1 step left")


def test_a_table_of_steps_says_what_its_seconds_leave_out():
    lines = told(PLAN[:2], "drawing the page").splitlines()
    assert lines == [
        "                 token-layers  passes  seconds",
        "heads                   1,000     2.0     10.0",
        "paths                   1,000     2.0     40.0",
        "together, about         2,000             50.0",
        "seconds: at the speed that this machine had just now, corrected as steps end; left out: loading the model, "
        "timing it, drawing the page",
    ]
    assert len(told([step("a", "exact", None)]).splitlines()) == 3
