"""VQA v2 (Goyal et al., 2017): open questions, ten answers each, complementary pairs.

Five types in equal fifths. The question comes first, then two different answers, evenly drawn, then two scenes that differ by as
little as makes one answer right in each. So the words alone leave every answer of a type equally likely; and since the edit is as
likely either way, so does the picture without the question. Two types need care for that:

* colour: every category lacks two colours in training (see vocabulary), so a question that names the category gives a hint. Most
  questions therefore name the thing otherwise: "the animal", "the large thing", "the leftmost thing". And a picture of two things
  would leave two answers. So every such scene has six things of six groups in six colours, any of which may be meant.
* count: a picture with 4 alike would give its answer away. So every counting scene has six things, 3 + 2 + 1 by category and
  4 + 1 + 1 by colour or the other way round: each of 0 to 4 is the answer to some question about every such picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from diptych.atelier.compose import Scene, crowd, fits, stage, thing, turned_into
from diptych.atelier.facts import EXTREMES, OPPOSITE, SIZES, Facts
from diptych.atelier.vocabulary import CATEGORIES, COLOURS, LARGE, SMALL, Category, World

SCENES = 2
TYPES = ("exist", "colour", "count", "relation", "larger")
MOST_COUNTED = 4
NAMED = 0.2  # of colour questions so many name the category, and those about the few things with neither group nor place
_ANSWER_TYPES = {"exist": "yes/no", "relation": "yes/no", "count": "number", "colour": "other", "larger": "other"}

Asked = tuple[str, list[tuple[Scene, str]]]  # the question, and two scenes with their answers


def derive(world: World, rng: Random, index: int, image_ids: list[int], group: str) -> tuple[list[Scene], dict[str, list[Any]]]:
    kind = TYPES[index % len(TYPES)]
    question, answered = _ASK[kind](world, rng)
    rng.shuffle(answered)
    questions, annotations = [], []
    for image_id, (_, answer) in zip(image_ids, answered, strict=True):
        questions.append({"image_id": image_id, "question": question, "question_id": image_id})
        ten = [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
        annotations.append(
            {"question_id": image_id, "image_id": image_id, "question_type": kind, "answer_type": _ANSWER_TYPES[kind]}
            | {"multiple_choice_answer": answer, "answers": ten, "group": group}
        )
    return [scene for scene, _ in answered], {
        "questions": questions,
        "annotations": annotations,
        "complementary_pairs": [image_ids],
    }


def _exist(world: World, rng: Random) -> Asked:
    """is there a dog? | is there a red dog?   One thing turns into another category, or another colour."""
    things = crowd(world, rng)
    here = things[0]
    by_colour = rng.random() < 0.3
    if by_colour:
        colour = rng.choice([k for k in world.colours[here.category] if k != here.colour])
        if any(t.category == here.category and t.colour in (here.colour, colour) for t in things[1:]):
            return _exist(world, rng)
        yes = stage(rng, things)
        no = yes.swap(0, colour=colour)
    else:
        other = rng.choice(world.categories)
        if other == here.kind or any(t.category in (here.category, other.number) for t in things[1:]):
            return _exist(world, rng)
        if here.colour not in world.colours[other.number]:
            return _exist(world, rng)
        yes = stage(rng, things)
        no = yes.swap(0, **turned_into(rng, world, yes.things[0], other)._asdict())
    what = f"{COLOURS[here.colour].word} {here.kind.word}" if by_colour or rng.random() < 0.3 else here.kind.word
    return f"is there {_a(what)}?", [(yes, "yes"), (no, "no")]


def _colour(world: World, rng: Random) -> Asked:
    """what color is the dog? | the animal? | the large thing? | the leftmost thing?   One thing is recoloured."""
    answers = rng.sample(range(len(COLOURS)), 2)
    able = [c for c in world.categories if all(k in world.colours[c.number] for k in answers)]
    if not able:
        return _colour(world, rng)
    asked = rng.choice(able)
    pairs = [(asked, answers[0])]
    for colour in rng.sample([k for k in range(len(COLOURS)) if k not in answers], 5):
        taken = {c.group for c, _ in pairs}
        others = [c for c in world.categories if colour in world.colours[c.number] and c.group not in taken]
        if not others:
            return _colour(world, rng)
        pairs.append((rng.choice(others), colour))
    scene = _six(world, rng, pairs)
    facts = Facts(scene)
    otherwise = [asked.group] * bool(asked.group)
    otherwise += [f"{SIZES[facts.sizes[0]]} thing"] * 2 * (facts.sizes.count(facts.sizes[0]) == 1)
    otherwise += [f"{which} thing" for which in EXTREMES if facts.extreme(which) == 0] * 2
    by_name = rng.random() < NAMED or not otherwise
    question = f"what color is the {asked.word if by_name else rng.choice(otherwise)}?"
    return question, [(scene, COLOURS[answers[0]].word), (scene.swap(0, colour=answers[1]), COLOURS[answers[1]].word)]


def _relation(world: World, rng: Random) -> Asked:
    """is the dog left of the pear?   The two change places."""
    things = crowd(world, rng)
    a, b = things[0], things[1]
    if not world.says(a.kind, b.kind) or any(t.category in (a.category, b.category) for t in things[2:]):
        return _relation(world, rng)
    widest = max(a.size, b.size)
    sides = [widest, widest, *(t.size for t in things[2:])]
    if not fits(sides):
        return _relation(world, rng)
    while not (said := Facts(scene := stage(rng, things, sides)).relation(0, 1)):
        pass
    a, b = scene.things[:2]
    turned = scene.swap(0, cx=b.cx, cy=b.cy).swap(1, cx=a.cx, cy=a.cy)
    if rng.random() < 0.5:
        return f"is the {a.kind.word} {said} the {b.kind.word}?", [(scene, "yes"), (turned, "no")]
    return f"is the {a.kind.word} {OPPOSITE[said]} the {b.kind.word}?", [(turned, "yes"), (scene, "no")]


def _larger(world: World, rng: Random) -> Asked:
    """is the dog larger or smaller than the pear?   The two change sizes."""
    big, little = rng.choice(LARGE), rng.choice(SMALL)
    things = crowd(world, rng)
    a, b = things[0]._replace(size=big), things[1]._replace(size=little)
    if a.category == b.category or any(t.category in (a.category, b.category) for t in things[2:]):
        return _larger(world, rng)
    sides = [big, big, *(t.size for t in things[2:])]
    if not fits(sides):
        return _larger(world, rng)
    scene = stage(rng, [a, b, *things[2:]], sides)
    question = f"is the {a.kind.word} larger or smaller than the {b.kind.word}?"
    return question, [(scene, "larger"), (scene.swap(0, size=little).swap(1, size=big), "smaller")]


# ---------------------------------------------------------------------------------------------------------- counting

_EVEN, _HEAVY = (3, 2, 1), (4, 1, 1)  # how six things fall into three kinds


def _count(world: World, rng: Random) -> Asked:
    """how many dogs are there? | how many red things are there?   As few things as possible turn into something else."""
    numbers = rng.sample(range(MOST_COUNTED + 1), 2)
    # 4 alike need the heavy division, 2 and 3 the even one; 0 and 1 go with either
    needs = {n == MOST_COUNTED for n in numbers if n > 1} or {rng.random() < 0.5}
    heavy = [n == MOST_COUNTED if len(needs) == 2 else True in needs for n in numbers]
    # test-composition has too few pairs to divide by colour as well: there any colour does
    two_ways = len(world.colours[world.categories[0].number]) > 2
    by_category = rng.random() < 0.5 or not two_ways
    while True:  # what was drawn above stays: it must not depend on how easily such scenes are found
        categories = [c.number for c in rng.sample(world.categories, 4)]
        colours = rng.sample(range(len(COLOURS)), 4)
        columns = _two_columns(rng, categories if by_category else colours, heavy, numbers)
        beside = _two_columns(rng, colours if by_category else categories, [not h for h in heavy], [None, None])
        by_kind, by_colour = (columns, beside) if by_category else (beside, columns)
        if not two_ways:
            by_colour = [[rng.choice(world.colours[category]) for category in column] for column in by_kind]
        tables = [list(zip(*both, strict=True)) for both in zip(by_kind, by_colour, strict=True)]
        if all(colour in world.colours[category] for table in tables for category, colour in table):
            break
    scene = changed = _six(world, rng, [(CATEGORIES[category], colour) for category, colour in tables[0]])
    for i, (category, colour) in enumerate(tables[1]):
        if category != scene.things[i].category:
            turned = turned_into(rng, world, scene.things[i], CATEGORIES[category])
            changed = changed.swap(i, **turned._replace(colour=colour)._asdict())
        elif two_ways:
            changed = changed.swap(i, colour=colour)
    what = CATEGORIES[categories[0]].plural if by_category else f"{COLOURS[colours[0]].word} things"
    return f"how many {what} are there?", [(scene, str(numbers[0])), (changed, str(numbers[1]))]


def _two_columns(rng: Random, kinds: list[int], heavy: list[bool], numbers: Sequence[int | None]) -> list[list[int]]:
    """The kinds of six things before and after; the same where nothing asks for a change."""
    before = _column(rng, kinds, heavy[0], numbers[0])
    if numbers[0] == numbers[1] and heavy[0] == heavy[1]:
        return [before, before]
    return [before, _moved(before, _column(rng, kinds, heavy[1], numbers[1]))]


def _column(rng: Random, kinds: list[int], heavy: bool, number: int | None) -> list[int]:
    """The kind of each of six things; kinds[0] comes `number` times (None: nothing is asked, any kind may come any time)."""
    times = list(_HEAVY if heavy else _EVEN)
    rng.shuffle(times)
    if number is None:
        others = rng.sample(kinds, 3)
    elif number == 0:
        others = kinds[1:]
    else:
        times.remove(number)
        times, others = [number, *times], kinds[:3]
    column = [kind for kind, n in zip(others, times, strict=True) for _ in range(n)]
    rng.shuffle(column)
    return column


def _moved(before: list[int], after: list[int]) -> list[int]:
    """`after` in the order that changes the fewest things of `before`."""
    left = list(after)
    kept: list[int | None] = []
    for kind in before:
        if kind in left:
            left.remove(kind)
            kept.append(kind)
        else:
            kept.append(None)
    return [left.pop() if kind is None else kind for kind in kept]


def _six(world: World, rng: Random, pairs: list[tuple[Category, int]]) -> Scene:
    while True:
        things = [thing(rng, world, category, colour) for category, colour in pairs]
        if fits([t.size for t in things]):
            return stage(rng, things)


_ASK: dict[str, Callable[[World, Random], Asked]] = {
    "exist": _exist, "colour": _colour, "count": _count, "relation": _relation, "larger": _larger,
}  # fmt: skip


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"
