"""Pictures of what was learnt: DRAWN[name](runs, images) writes images/NAME.png and returns the Markdown that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diptych import find
from diptych.contracts import IGNORE, Batch, Reader, Sample
from diptych.data.collate import Collate
from diptych.data.picture import decode
from diptych.data.stream import InOrder
from diptych.draw import Draw
from diptych.load import Model, load
from diptych.metrics.recall import recall
from diptych.regions.store import RegionStore, WithRegions
from diptych.replies import Guess
from diptych.report.overlay import Look, lit
from tools.portraits.runs import NOISE, PICTURED, UNPICTURED

SIDE, GAP, LINE = 150, 8, 15  # pixels
PAPER, INK, SOFT, RIGHT, WRONG = "#ffffff", "#1d1c1a", "#67635b", "#3f8f3a", "#c8421c"
BOXES = ("#c8421c", "#2f6f9f", "#5b8c3a", "#8a5fb0", "#b8860b", "#1d1c1a", "#d0699a", "#4a9c98", "#8b8a86")

Picture = NDArray[np.uint8]


class Tile(NamedTuple):
    """One picture of a sheet with what stands under it; or words alone."""

    picture: Picture | Image.Image | None
    said: str = ""
    frame: str = ""  # its colour


def sheet(rows: Sequence[Sequence[Tile]], file: Path, side: int = SIDE) -> None:
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 11)
    wrapped = [[_wrapped(tile.said, font, side) for tile in row] for row in rows]
    heights = [
        max((0 if tile.picture is None else side) + LINE * len(said) for tile, said in zip(row, lines, strict=True)) + 2 * GAP
        for row, lines in zip(rows, wrapped, strict=True)
    ]
    canvas = Image.new("RGB", (max(map(len, rows)) * (side + GAP) + GAP, sum(heights) + GAP), PAPER)
    draw, top = ImageDraw.Draw(canvas), GAP
    for row, lines, height in zip(rows, wrapped, heights, strict=True):
        for place, (tile, said) in enumerate(zip(row, lines, strict=True)):
            left, under = GAP + place * (side + GAP), top + side
            if tile.picture is None:
                under = top
            else:
                shown = (
                    tile.picture if isinstance(tile.picture, Image.Image) else Image.fromarray(np.ascontiguousarray(tile.picture))
                )
                canvas.paste(shown.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (left, top))
            if tile.frame and tile.picture is not None:
                draw.rectangle((left - 3, top - 3, left + side + 2, top + side + 2), outline=tile.frame, width=3)
            for number, line in enumerate(said):
                draw.text((left, under + 2 + LINE * number), line, fill=tile.frame or INK, font=font)
        top += height
    canvas.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for part in text.split("\n"):
        line = ""
        for word in part.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines += [line] if line else []
    return lines


def boxed(
    picture: Picture, boxes: Sequence[tuple[float, float, float, float]], colours: Sequence[str] = BOXES, scale: int = 3
) -> Image.Image:
    """Boxes xyxy in [0, 1] drawn on the enlarged picture."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for place, (x1, y1, x2, y2) in enumerate(boxes):
        corners = (x1 * image.width, y1 * image.height, x2 * image.width, y2 * image.height)
        draw.rectangle(corners, outline=colours[place % len(colours)], width=4)
    return image


def batches(model: Model, reader: Reader, label: Callable[[Batch], Batch], most: int, size: int = 64) -> Iterator[Batch]:
    """In the reader's order, as an evaluation makes them."""
    collate = Collate(model.tokenizer, model.recipe.text, model.recipe.data, training=False)
    for delivery in InOrder(reader, collate, label, Draw(0), model.recipe.data.image, size, most).loader(0):
        yield delivery.batch


def scenes(split: str = "test", kind: str = "visual_genome") -> Reader:
    (source,) = find.readers([f"{kind}:scenes"], split, "pretrain")
    return source.reader


def _shown(reader: Reader, index: int) -> Picture:
    return decode(reader[index].images[0])


def _file(sample: Sample) -> Path | bytes:
    return sample.images[0]


def _as_image(name: str, alt: str) -> str:
    return f"![{alt}](../images/portraits/{name}.png)"


# --------------------------------------------------------------------------------------------------------- texts alone


def bert(runs: Path, images: Path) -> str:
    """A table: one word of a sentence hidden, and the three likeliest."""
    model = load(runs / "bert")
    (source,) = find.readers(["coco_captions:scenes"], "test", "documents")
    lines = ["| sentence | hidden | guessed |", "|---|---|---|"]
    for n in range(8):
        words = source.reader[n * 7].texts[n % 5].split()
        place = int(Draw(n).integers("hidden word", n, len(words) - 1)[0, 0])
        hidden = words[place].strip(".,")
        said = " ".join([*words[:place], words[place].replace(hidden, "[MASK]"), *words[place + 1 :]])
        guesses = model.fill(None, said, top=3)[0]
        told = ", ".join(_guess(guess, hidden) for guess in guesses)
        lines.append(f"| {said} | {hidden} | {told} |")
    return "\n".join(lines)


def _guess(guess: Guess, hidden: str) -> str:
    mark = "**" if guess.text == hidden.lower() else ""
    return f"{mark}{guess.text}{mark} {100 * guess.probability:.0f} %"


# ------------------------------------------------------------------------------------------------------ pictures alone


@torch.inference_mode()
def vit(runs: Path, images: Path) -> str:
    """Annotated boxes with the name that the tokens under each give it."""
    model, reader = load(runs / "vit"), scenes()
    system: Any = model.system
    batch = next(batches(model, reader, system.label, 12, 12))
    visual = system.see(batch)
    i_P, r_P, v_P, share_P = system.naming.tokens_of_boxes(visual, batch)
    names, attributes = system.naming.config.names, system.naming.config.attributes
    chance_PK = system.naming.logits(visual.token_IVD[i_P, v_P]).float().split([len(names), len(attributes)], 1)
    assert batch.regions is not None
    shape = batch.regions.mask_IR.shape
    name_IR, attribute_IR = (
        torch.zeros(*shape, part.shape[1]).index_put((i_P, r_P), part.softmax(1) * share_P[:, None], accumulate=True).argmax(2)
        for part in chance_PK
    )
    tiles = []
    for i in range(12):
        sample = reader[i]
        said = [f"{attributes[attribute_IR[i, r]]} {names[name_IR[i, r]]}" for r in range(len(sample.boxes))]
        right = [names[name_IR[i, r]] == box.name for r, box in enumerate(sample.boxes)]
        boxes = [tuple(box) for box in batch.regions.box_IR4[i, : len(sample.boxes)].tolist()]
        drawn = boxed(_shown(reader, i), boxes, [RIGHT if ok else WRONG for ok in right])  # pyright: ignore[reportArgumentType]
        told = [one if ok else f"{one} ({box.name})" for one, ok, box in zip(said, right, sample.boxes, strict=True)]
        tiles.append(Tile(drawn, "\n".join(told)))
    sheet([tiles[:6], tiles[6:]], images / "vit.png", 170)
    return _as_image(
        "vit", "held-out scenes with what the model calls the things in them; in brackets the true name where it is wrong"
    )


def neighbours(name: str) -> Callable[[Path, Path], str]:
    @torch.inference_mode()
    def draw(runs: Path, images: Path) -> str:
        model = load(runs / name)
        (known,), (new,) = (find.readers(["names"], split, "probe") for split in ("train", "test"))

        def features(reader: Reader) -> torch.Tensor:
            parts = [model.system.see(batch).mean().float() for batch in batches(model, reader, lambda batch: batch, len(reader))]
            return torch.cat(parts)

        bank_KD, asked_QD = features(known.reader), features(new.reader)
        mean_D = bank_KD.mean(0)
        cosine_QK = torch.nn.functional.normalize(asked_QD - mean_D) @ torch.nn.functional.normalize(bank_KD - mean_D).T
        rows = []
        for q in range(0, len(asked_QD), len(asked_QD) // 8)[:8]:
            label = new.reader[q].labels["label"]
            row = [Tile(_shown(new.reader, q), _spaced(label))]
            for k in cosine_QK[q].topk(6).indices.tolist():
                near = str(known.reader[k].labels["label"])
                row.append(Tile(_shown(known.reader, k), _spaced(near), RIGHT if near == label else ""))
            rows.append(row)
        sheet(rows, images / f"{name}.png", 100)
        return _as_image(
            name,
            "at the left a drawing by an artist never seen; beside it the six nearest of training, the same thing framed",
        )

    return draw


def _spaced(label: object) -> str:
    return str(label).replace("-", " ")


# ------------------------------------------------------------------------------------------------------- both together


def transported(name: str) -> Callable[[Path, Path], str]:
    def draw(runs: Path, images: Path) -> str:
        model, reader = load(runs / name), scenes()
        rows: list[list[Tile]] = []
        for index in range(200):
            sample = reader[index]
            text = next((text for text in sample.texts if 5 <= len(text.split()) <= 8), None)
            if text is None or index % 9:
                continue
            moved, picture = (
                model.transport(_file(sample), text),
                _shown(reader, index),
            )
            row = [Tile(picture, text)]
            for word, weight_V in zip(moved.words, moved.weight_WV, strict=True):
                if len(word) > 2 and word.lower() not in ("the", "there", "and") and len(row) < 6:
                    row.append(Tile(lit(picture, Look(weight_V, moved.box_V4)), word))
            rows.append(row)
            if len(rows) == 4:
                break
        sheet(rows, images / f"{name}.png", 130)
        return _as_image(
            name, "a scene and its caption; beside it, word by word, the picture in fog, clear where the word is taken to"
        )

    return draw


@torch.inference_mode()
def soho(runs: Path, images: Path) -> str:
    """For words of the dictionary, from the most used on, cells that chose them, with half a cell around."""
    model, reader = load(runs / "soho"), scenes()
    system: Any = model.system
    crops: dict[int, list[Picture]] = {}
    count: dict[int, int] = {}
    for batch in batches(model, reader, lambda batch: batch, 640):
        index_IV = system.spell(batch)[1]
        box_IV4 = system.image(batch.images).box_IV4
        pixel_IHW3 = batch.images.pixel_I3HW.permute(0, 2, 3, 1).numpy()  # pyright: ignore[reportOptionalMemberAccess]
        for i, words in enumerate(index_IV.tolist()):
            for v, word in enumerate(words):
                if word == IGNORE:
                    continue
                count[word] = count.get(word, 0) + 1
                if len(crops.setdefault(word, [])) < 8 and count[word] % 5 == 1:
                    crops[word].append(_around(pixel_IHW3[i], box_IV4[i, v].tolist()))
    often = sorted((word for word in crops if len(crops[word]) >= 6), key=lambda word: -count[word])
    chosen = often[:: max(1, len(often) // 24)][:24]
    rows = [
        [tile for word in chosen[place : place + 3] for tile in (*map(Tile, crops[word][:6]), Tile(None))]
        for place in range(0, len(chosen), 3)
    ]
    sheet(rows, images / "soho.png", 44)  # a gap after each word
    return _as_image("soho", "24 visual words, three in a row of pictures, six cells of each")


def _around(pixel_HW3: Picture, box: Sequence[float]) -> Picture:
    height, width = pixel_HW3.shape[:2]
    x1, y1, x2 = box[0] * width, box[1] * height, box[2] * width
    more = (x2 - x1) / 2
    padded = np.pad(pixel_HW3, ((32, 32), (32, 32), (0, 0)), mode="edge")
    top, left, size = int(y1 - more) + 32, int(x1 - more) + 32, int(x2 - x1 + 2 * more)
    return padded[top : top + size, left : left + size]


@torch.inference_mode()
def vinvl(runs: Path, images: Path) -> str:
    """What the detector sees; artists never seen in the second row."""
    model = load(runs / "detector")
    system: Any = model.system
    rows = []
    for split in ("test", "test-style"):
        reader = scenes(split)
        batch = next(batches(model, reader, system.label, 6, 6))
        found = system.detect(batch)
        attribute_IR = system.attributes(found).argmax(-1)
        row = []
        for i in range(6):
            chance_R, class_R = found.soft_label_IRK[i, :, 1:].float().max(-1)
            sure = [r for r in found.mask_IR[i].nonzero()[:, 0].tolist() if chance_R[r] > 0.5]
            said = [
                f"{system.config.attributes[attribute_IR[i, r]]} {system.config.names[class_R[r]]} {100 * chance_R[r]:.0f} %"
                for r in sure
            ]
            row.append(Tile(boxed(_shown(reader, i), [tuple(found.box_IR4[i, r].tolist()) for r in sure]), "\n".join(said)))  # pyright: ignore[reportArgumentType]
        rows.append(row)
    sheet(rows, images / "vinvl.png", 170)
    return _as_image("vinvl", "regions with names and attributes; below, scenes by artists never seen")


def e2e_vlp(runs: Path, images: Path) -> str:
    model, reader = load(runs / "e2e_vlp"), scenes(kind="coco_captions")
    tiles = []
    for index in range(0, 24, 2):
        picture = _shown(reader, index)
        things = [thing for thing in model.detect(picture) if thing.probability > 0.4]
        said = ", ".join(thing.name for thing in things)
        tiles.append(Tile(boxed(picture, [thing.box for thing in things]), f"[{said}]\n{model.caption(picture)}"))
    sheet([tiles[:6], tiles[6:]], images / "e2e_vlp.png", 190)
    return _as_image("e2e_vlp", "things found, in brackets, and the text written of the picture")


@torch.inference_mode()
def kd_vlp(runs: Path, images: Path) -> str:
    """Regions come from the detector's store; the model says which of them a phrase means."""
    model, reader = load(runs / "kd_vlp"), scenes()
    system: Any = model.system
    seen = WithRegions(reader, RegionStore(runs / "regions"))
    tiles = []
    for index in range(0, 160, 2):
        batch = next(batches(model, _Some([seen[index]]), lambda batch: batch, 1, 1))
        batch = system.pra.corrupt(batch, Draw(0))
        taken = system.pra.taken(system.fuse(batch), batch)
        for p in range(len(taken.row_P)):
            b = int(taken.row_P[p])
            text, part = batch.samples[b].texts[b], (taken.part_PT[p] > 0).nonzero()[:, 0].tolist()
            offsets = model.tokenizer.encode(text, model.recipe.text.max_tokens).offsets
            phrase = text[offsets[part[0]][0] : offsets[part[-1]][1]]
            chance_R = taken.log_s_PR[p].exp()
            best = int(chance_R.argmax())
            assert batch.regions is not None
            box = tuple(batch.regions.box_IR4[int(taken.picture_P[p]), best].tolist())
            tiles.append(Tile(boxed(_shown(reader, index), [box]), f"{text}\n-> {phrase} {100 * float(chance_R[best]):.0f} %"))  # pyright: ignore[reportArgumentType]
            break
        if len(tiles) == 12:
            break
    sheet([tiles[:6], tiles[6:]], images / "kd_vlp.png", 160)
    return _as_image("kd_vlp", "scenes with a phrase of their text and the region it is taken for")


@torch.inference_mode()
def align(runs: Path, images: Path) -> str:
    model, (source,) = load(runs / "align"), find.readers(["coco_captions:scenes"], "test", "retrieval")
    reader, pictures = source.reader, []
    for batch in batches(model, reader, lambda batch: batch, 200):
        assert batch.image_of_BN is not None
        place_B = batch.image_of_BN[:, 0].tolist()
        first = [place_B.index(i) for i in range(max(place_B) + 1)]
        pictures.append(model.system.towers(batch).a_BE[first])
    a_IE = torch.cat(pictures).numpy()
    rows = []
    for index in range(3, 200, 33):
        text = reader[index].texts[0]
        score_I = a_IE @ model.embed_text(text)[0]
        best = np.argsort(-score_I)[:5].tolist()
        rows.append([Tile(None, text), *(Tile(_shown(reader, i), f"{score_I[i]:.2f}", RIGHT if i == index else "") for i in best)])
    sheet(rows, images / "align.png", 120)
    return _as_image("align", "a text, and the five pictures found for it")


@torch.inference_mode()
def mural(runs: Path, images: Path) -> str:
    """Mean recall of every language, those without pictures apart."""
    found = {name: _by_language(load(runs / name), (*PICTURED, *UNPICTURED)) for name in ("mural", "mural-without-t2t")}
    order = [*sorted(PICTURED, key=lambda one: -found["mural"][one]), *sorted(UNPICTURED, key=lambda one: -found["mural"][one])]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x = np.arange(len(order)) + np.array([2.0 * (one in UNPICTURED) for one in order])
    axes.bar(
        x,
        [found["mural"][one] for one in order],
        color=["#c8421c" if one in UNPICTURED else "#2f6f9f" for one in order],
        width=0.75,
    )
    axes.scatter(x, [found["mural-without-t2t"][one] for one in order], color=INK, s=12, zorder=3, label="without translations")
    axes.set_xticks(x, order, fontsize=8)
    axes.set_ylabel("mean recall, %", fontsize=8)
    axes.set_title(
        "bars: MURAL (red: languages whose names never stood beside a picture); dots: trained without translations", fontsize=9
    )
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(images / "mural.png", dpi=110)
    return _as_image("mural", "mean recall of 18 languages, with and without translations in training")


@torch.inference_mode()
def align_noise(runs: Path, images: Path) -> str:
    """Mean recall by noise, a line for English and one for the mean of twelve languages."""
    found = {noise: _by_language(load(runs / f"align-noise-{noise}"), PICTURED) for noise in NOISE}
    figure = Figure(figsize=(4.6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(NOISE, [found[noise]["en"] for noise in NOISE], color="#c8421c", marker="o", label="English")
    axes.plot(
        NOISE, [sum(found[noise].values()) / len(PICTURED) for noise in NOISE], color="#2f6f9f", marker="o", label="12 languages"
    )
    axes.set(xlabel="names spoilt in training, %", ylabel="mean recall on clean names, %", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(images / "align-noise.png", dpi=110)
    return _as_image("align-noise", "mean recall by share of spoilt names")


def _by_language(model: Model, languages: Sequence[str]) -> dict[str, float]:
    """(R@1 + R@5 + R@10) / 3, the mean of both ways; a gallery's pictures are encoded once for all languages."""
    side: dict[Any, NDArray[np.float32]] = {}
    scores = {}
    for language in languages:
        (source,) = find.readers(["languages:names"], f"test-{language}", "retrieval")
        samples = [source.reader[i] for i in range(len(source.reader))]
        new = [sample for sample in samples if sample.images[0] not in side]
        if new:
            model_rows = _Some(new)
            parts = [model.system.towers(batch).a_BE.numpy() for batch in batches(model, model_rows, lambda batch: batch, len(new))]
            side |= {sample.images[0]: row for sample, row in zip(new, np.concatenate(parts), strict=True)}
        a_IE = np.stack([side[sample.images[0]] for sample in samples])
        b_IE = np.concatenate(
            [model.embed_text([s.texts[0] for s in samples[start : start + 64]]) for start in range(0, len(samples), 64)]
        )
        scores[language] = recall(a_IE @ b_IE.T, np.arange(len(samples)))["r_mean"]
    return scores


class _Some:
    def __init__(self, samples: Sequence[Any]):
        self._samples, self.fingerprint = samples, ""

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


DRAWN: dict[str, Callable[[Path, Path], str]] = {
    "bert": bert,
    "vit": vit,
    "simclr": neighbours("simclr"),
    "moco": neighbours("moco"),
    "uniter": transported("uniter"),
    "vilt": transported("vilt"),
    "soho": soho,
    "vinvl": vinvl,
    "e2e_vlp": e2e_vlp,
    "kd_vlp": kd_vlp,
    "align": align,
    "align-noise": align_noise,
    "mural": mural,
}
