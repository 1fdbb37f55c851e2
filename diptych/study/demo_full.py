"""What `diptych demo --full` adds: the same question with all labels, and with other hinges.

    few labels     the four arms of demo.py at the large size, each at a learning rate searched anew
    all labels     at equal fine-tuning: the three starts, as many steps each
                   at equal total compute: the lesser starts go on until they have cost what the pre-trained arm has
    hinges         cells of a grid CNN or patches, in two streams or one: each with a root of its kind and pre-trained,
                   for about as many minutes as the pre-trained arm of demo.py, then fine-tuned on the few labels

Steps stand in `FURTHER`: on all labels those that make FLOPs equal (tests/study counts them again); of the hinges those that
should take as long on an AVX2 core in fp32, reckoned from FLOPs and the speed of small and of large products, not timed: the page
shows the minutes they took. A run that has no search of its own takes the learning rate of the arm that it resembles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from diptych.report.charts import Score
from diptych.report.demo import Comparison
from diptych.study.demo import CHANCE, Arm, Plan, items_of
from diptych.study.lanes import Command
from diptych.train.evaluate import MACRO, Interval, intervals

ALL_LABELS = 12_768  # questions of the embedded scenes' training split


@dataclass(frozen=True)
class Further:
    """Steps, beside those of demo.SIZES["large"]."""

    tune: int  # on all labels
    scratch: int  # on all labels, for what root, pre-training and `tune` cost
    rooted: int  # on all labels, for what pre-training and `tune` cost
    cells_one_stream: int  # pre-training after the grid's root
    patch_root: int
    patches_one_stream: int
    patches_two_streams: int


FURTHER = Further(800, 4490, 3520, 660, 280, 870, 690)


class Extension:
    """The further commands, beside those of a plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        size, start, further = plan.size, plan.start(plan.root), FURTHER
        fresh = f"crossgrid:{size.preset}"

        def on_all(name: str, arm: str, steps: int, source: str, *more: str) -> Arm:
            return Arm(plan.arms[arm].past, plan.tune(name, source, steps, *more, rate=arm, labels=ALL_LABELS))

        self.all_labels = {
            "Pre-trained": on_all("all-pretrained", "pretrained", further.tune, str(plan.pretraining.run)),
            "Image root only": on_all("all-image_root_only", "image_root_only", further.tune, fresh, *start),
            "From scratch": on_all("all-scratch", "scratch", further.tune, fresh),
        }
        self.all_labels_equal_total = {
            "Image root only": on_all("all-image_root_only-long", "image_root_only", further.rooted, fresh, *start),
            "From scratch": on_all("all-scratch-long", "scratch", further.scratch, fresh),
        }
        self.patch_root = plan.train(
            "image root of patches", "patch-root", further.patch_root, "pretrain", f"vit:{size.preset}", "--data", "scenes"
        )

        def hinge(name: str, system: str, steps: int, root: Command, frozen: str, *more: str) -> Arm:
            about = f"pre-training {name.replace('-', ' ')}"
            reading = replace(plan.pretrain(about, name, steps, system, *more, frozen=frozen), needs=root.makes)
            return Arm((root, reading), plan.tune(f"{name}-vqa", str(reading.run), size.tune, rate="pretrained"))

        # words are hidden as crossgrid hides them, so that the hinge and the eyes are what differs
        hidden = [f"system.mlm.{key}" for key in ("words=phrases", "mask=1.0", "random=0.0")]
        small_steps = "train.batch_size=8"  # minutes hold few steps, and it is steps that teach
        masking = tuple(word for setting in (*hidden, small_steps) for word in ("--set", setting))
        eyes = ("--init", f"image={self.patch_root.run}")
        self.hinges = {  # beside the plan's own: cells in two streams
            "Cells, one stream": hinge(
                "cells-one-stream", "crossgrid:one_stream", further.cells_one_stream, plan.root,
                "image.blocks,image.norm",  # not where cells lie: that is new here
                *start,
            ),
            "Patches, one stream (ViLT)": hinge(
                "vilt", "vilt:small", further.patches_one_stream, self.patch_root,
                "", *eyes, "--init", f"fusion={self.patch_root.run}", *masking,
            ),
            "Patches, two streams": hinge(
                "vilt-two-streams", "vilt:two_streams", further.patches_two_streams, self.patch_root, "", *eyes, *masking
            ),
        }  # fmt: skip
        self.arms = {"all_labels": self.all_labels, "all_labels_equal_total": self.all_labels_equal_total, "hinges": self.hinges}
        tunings = [arm.tuning for arms in self.arms.values() for arm in arms.values()]
        self.judging = {tuning: plan.judge(tuning) for tuning in tunings}

    def lanes(self) -> list[list[Command]]:
        """Two, about equally long; what they need of the plan's is made in its own lanes, before."""
        one = [arm.tuning for arms in (self.all_labels, self.all_labels_equal_total) for arm in arms.values()]
        two = [self.patch_root, *(command for arm in self.hinges.values() for command in (arm.past[-1], arm.tuning))]
        return [[*lane, *(self.judging[command] for command in lane if command in self.judging)] for lane in (one, two)]

    # ------------------------------------------------------------------------------------------------- the numbers

    @cached_property
    def scores(self) -> dict[Command, dict[str, Interval]]:
        """Of every fine-tuning on `test`, once all have run."""
        own = self.plan.arms["pretrained"].tuning
        scored = {tuning: intervals(items_of(command)) for tuning, command in self.judging.items()}
        return {**scored, own: self.plan.scores["pretrained", "test"]}

    def comparisons(self) -> tuple[Comparison, ...]:
        chance = sum(CHANCE.values()) / len(CHANCE)

        def compared(title: str, text: str, arms: dict[str, Arm]) -> Comparison:
            bars = tuple((name, Score(*self.scores[arm.tuning][MACRO])) for name, arm in arms.items())
            minutes = {name: sum(seconds for _, seconds in arm.stages) / 60 for name, arm in arms.items()}
            return Comparison(title, text, bars, chance, minutes)

        ours = {"Pre-trained": self.all_labels["Pre-trained"]}
        return (
            compared(
                f"All {ALL_LABELS:,} labels, equal fine-tuning",
                "The same starts with every labelled question there is, for as many steps each.",
                self.all_labels,
            ),
            compared(
                f"All {ALL_LABELS:,} labels, equal total compute",
                "The lesser starts are fine-tuned until they have cost as many FLOPs as root, pre-training and fine-tuning do.",
                {**ours, **self.all_labels_equal_total},
            ),
            compared(
                "Both hinges, cells and patches",
                "Each has a root of its kind and is pre-trained on the same texts for about as many minutes, then fine-tuned on "
                f"the same {self.plan.size.labels:,} questions. In one stream a picture is encoded again for every text; over "
                "cells in two streams it is not, so many more texts are read.",
                {"Cells, two streams": self.plan.arms["pretrained"], **self.hinges},
            ),
        )

    def summary(self) -> dict[str, Any]:
        """For result.json, in percent."""
        return {
            about: {
                name: {key: round(score.value, 2) for key, score in self.scores[arm.tuning].items()} for name, arm in arms.items()
            }
            for about, arms in self.arms.items()
        }
