"""What is said of a run's figures: all branches with intervals, no gain where there is none, no calibration that is not shown."""

from __future__ import annotations

from typing import Any

from distill.evaluation.predict import judge_gain, summary
from distill.networks.checkpoint import EVERY_CLASS, Calibration


def figures(student: float, probe: float | None) -> dict[str, Any]:
    def of(value: float) -> dict[str, Any]:
        return {"auroc": {"value": value, "low": value - 0.1, "high": value + 0.1}, "ece": {"value": 0.1, "low": 0, "high": 1},
                "ece_uncalibrated": {"value": 0.3}}

    entry = {"n": 5, "student": of(student), **({} if probe is None else {"probe": of(probe)})}
    return {"val": entry, "test": entry}


def test_a_teacher_with_nothing_to_teach_is_said() -> None:
    assert judge_gain(figures(0.8, 0.9)) == []
    assert judge_gain(figures(0.8, None)) == []
    assert "may have nothing to teach" in judge_gain(figures(0.9, 0.8))[0]


def test_the_summary_has_all_branches_with_intervals() -> None:
    lines = summary(figures(0.8, 0.9), Calibration((2.0,)))
    assert lines[2:] == ["note probabilities calibrated"]
    assert "student AUROC 0.800 (0.700 to 0.900), probe AUROC 0.900" in lines[1]
    assert "ECE 0.100 (0.300 before calibration)" in lines[1]


def test_the_summary_says_what_findings_reach_that_are_not_rare() -> None:
    splits = figures(0.8, 0.9)
    splits["test"] = {**splits["test"], "student": {**splits["test"]["student"],
                                                    "auroc_common": {"value": 0.85, "low": 0.8, "high": 0.9, "findings": 4}}}
    lines = summary(splits, Calibration((2.0,)))
    assert "student AUROC 0.800 (0.700 to 0.900; 0.850 of the 4 findings in 10 images or more), probe AUROC 0.900 (0.800 to" in lines[1]
    assert "findings" not in lines[0]


def test_the_summary_does_not_call_probabilities_calibrated_that_are_not() -> None:
    lines = summary(figures(0.8, 0.9), Calibration((1.0,), (), {EVERY_CLASS: "too few"}, {"mass": "2 with it, 30 without"}))
    assert "ECE 0.100 (not calibrated)" in lines[1]
    assert lines[2:] == ["note probabilities not calibrated (too few)", "note thresholds on few images: mass: 2 with it, 30 without"]
