"""What a run is said to cost, against what a step of the real system costs by torch's own count, and by hand."""

import json

import pytest
import torch
from step_flops import flops_of_step
from test_every_system import TOKENIZER, Case
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diptych import cli, config, find
from diptych.config import UserError
from diptych.contracts import LossTerm, Trainable
from diptych.plan import DEVICES, plan
from diptych.train import rehearse

BY_VALUE = ("soho",)  # its visual words decide what is hidden, and without numbers all cells are one word


@pytest.mark.parametrize("name", sorted(find.catalogue("systems")))
def test_a_rehearsed_step_costs_what_a_real_one_does(name):
    """To the last product, in every system. The fused attention of CPUs is not counted by torch, so it is told to multiply."""
    case = Case(name)
    system = case.build()
    batch = case.batch(system)
    with sdpa_kernel(SDPBackend.MATH):
        real = flops_of_step(system, batch)
    again = rehearse.build(lambda: case.cls(case.recipe.system, TOKENIZER))
    assert not [n for n, p in again.named_parameters() if p.ndim and not p.is_meta], "weights have no content"
    found = rehearse.rehearse(again, batch)
    assert found.flops > real if name in BY_VALUE else found.flops == real
    assert 0 < found.forward < found.flops
    assert not [n for n, p in again.named_parameters() if p.grad is not None]


class Stack(Trainable):
    """Linear layers with a ReLU behind each: all that is kept can be counted by hand."""

    def __init__(self, layers: int, width: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))

    def forward(self, batch):
        x = self.layers[0].weight.new_ones(batch, len(self.layers[0].weight))
        for layer in self.layers:
            x = layer(x).relu()
        return {"mean": LossTerm(x.sum(), 1.0)}


def cost_of(rows: int, precision: torch.dtype, monkeypatch) -> rehearse.Cost:
    monkeypatch.setattr(rehearse, "_without_numbers", lambda batch: batch)  # the batch of this one is a number
    return rehearse.rehearse(rehearse.build(lambda: Stack(4, 64)), rows, precision)


def test_flops_and_memory_of_a_stack_are_those_worked_out_by_hand(monkeypatch):
    few, many = (cost_of(rows, torch.float32, monkeypatch) for rows in (1000, 3000))
    product = 2 * 64 * 64
    assert many.forward - few.forward == 2000 * 4 * product
    assert many.backward - few.backward == 2000 * 7 * product, "nobody asks for the gradient of the input"
    # a row keeps its input and every layer's output; a layer's product before ReLU goes when ReLU is done, and is there once
    row = 4 * 64
    kept, at_once = 1 + 4, 1 + 1  # the last: on the way back the gradient of an output and of its product
    assert 2000 * kept * row <= many.activations - few.activations <= 2000 * (kept + at_once) * row
    half = [cost_of(rows, torch.bfloat16, monkeypatch) for rows in (1000, 3000)]
    assert half[1].flops == many.flops
    assert half[1].activations - half[0].activations < 0.6 * (many.activations - few.activations) + 2000 * row


def test_a_plan_is_arithmetic_on_a_step():
    found = find.system("uniter:tiny")
    recipe = config.resolve(found.recipe, config.from_setting("train.steps=1000"))
    one, two = (plan(recipe, found.cls, n, "a100", utilisation=0.5) for n in (1, 2))
    run, memory = one["run"], one["memory"]
    assert run["samples"] == 16_000
    assert run["flops"] == pytest.approx(16_000 * one["sample"]["flops"])
    assert one["time"]["hours"] == pytest.approx(run["flops"] / (0.5 * DEVICES["a100"].flops) / 3600)
    assert two["time"]["hours"] == pytest.approx(one["time"]["hours"] / 2, rel=0.05)
    learning = one["parameters"]["learning"]
    assert sum(one["parameters"]["by_part"].values()) == one["parameters"]["all"] == learning
    assert memory["gradients"] == 4 * learning
    assert memory["optimiser"] == 8 * learning
    assert memory["activations"] > 1.5 * two["memory"]["activations"]
    assert memory["total"] == sum(memory[kind] for kind in ("weights", "gradients", "optimiser", "activations"))


def test_what_is_frozen_costs_less_and_what_is_recomputed_holds_less():
    found = find.system("vilt:tiny")

    def planned(*settings: str):
        return plan(config.resolve(found.recipe, *(config.from_setting(setting) for setting in settings)), found.cls, 1, "a100")

    plain, frozen, again = planned(), planned("train.freeze=[fusion]"), planned("train.recompute=true")
    assert frozen["parameters"]["all"] == plain["parameters"]["all"] > frozen["parameters"]["learning"]
    assert frozen["memory"]["gradients"] < plain["memory"]["gradients"]
    assert frozen["sample"]["flops"] < plain["sample"]["flops"]
    assert again["memory"]["activations"] < plain["memory"]["activations"]
    assert again["sample"]["flops"] > 1.2 * plain["sample"]["flops"]


def test_vilt_s_published_flops():
    """55.9 GFLOPs for one text of 40 tokens and 240 patches; 228 fit here, and of the last layer only what is read is computed."""
    found = find.system("vilt:paper")
    without = ("image.max_patches=null", "itm=null", "wpa=null", "mlm.rate=0.001")
    recipe = config.resolve(found.recipe, *(config.from_setting(f"system.{setting}") for setting in without))
    planned = plan(recipe, found.cls, 512, "h100")
    a_token = planned["sample"]["flops_forward"] / 1e9 / (1 + 40 + 228)
    assert 0.8 < a_token / (55.9 / (1 + 40 + 240)) < 1


def test_mistakes_are_told(capsys):
    found = find.system("bert:tiny")
    for arguments, said in (((3, "h100"), r"--gpus 3: does not divide train\.batch_size"), ((1, "h10"), "did you mean 'h100'")):
        with pytest.raises(UserError, match=said):
            plan(found.recipe, found.cls, *arguments)
    with pytest.raises(UserError, match=r"--utilisation 1\.5: a share"):
        plan(found.recipe, found.cls, 1, "h100", 1.5)
    assert cli.call(["plan", "bert:tiny", "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["time"]["peak_is"].startswith("measured")
    assert told["time"]["hours"] > 0
    assert cli.call(["plan", "bert:tiny", "--gpus", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 x h100 at 35% of 989 TFLOP/s (published, SXM)" in out
    assert "An estimate, no measurement" in out


@pytest.mark.parametrize("name", ["detector", "vit", "e2e_vlp"])
def test_a_published_run_is_planned_where_its_data_name_things(name):
    found = find.system(f"{name}:paper")
    planned = plan(found.recipe, found.cls, 1, "h100")
    assert planned["parameters"]["all"] > 5e7
    assert planned["sample"]["flops"] > planned["sample"]["flops_forward"] > 1e9
