"""ViLT as a user of transformers trains it: its own classes, its Trainer, padded batches. It knows nothing of how we do it.

    pre-training    ViltForMaskedLM, called once with masked words and once whole, for the match: transformers has no class with a
                    match head, so one linear layer and its loss are written here
    fine-tuning     ViltForQuestionAnswering as it is

Where a user has a choice, the peer gets the better one: the fused AdamW, batches that come ready, no checkpoints written.
Fixed by the comparison, not by taste: the groups of parameters, their rates and the schedule (ours, so that both learn the same).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViltConfig,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
)
from transformers.trainer_callback import PrinterCallback

Inputs = dict[str, Any]


class ForPreTraining(nn.Module):
    """Masked words and match, in two passes as published."""

    def __init__(self, config: ViltConfig):
        super().__init__()
        self.model = ViltForMaskedLM(config)
        # the published files hold a decoder of its own; transformers 5 ties it whatever the configuration says
        decoder = self.model.mlm_score.decoder
        decoder.weight = nn.Parameter(decoder.weight.detach().clone())
        self.match = nn.Linear(config.hidden_size, 2)

    def forward(self, masked: Inputs, masked_labels: Tensor, whole: Inputs, is_match: Tensor) -> dict[str, Tensor]:
        """`masked` and `whole`: input_ids, attention_mask, pixel_values, pixel_mask of the two passes."""
        mlm = self.model(**masked, labels=masked_labels).loss
        pooled = self.model.vilt(**whole).pooler_output
        return {"loss": mlm + F.cross_entropy(self.match(pooled).float(), is_match)}

    def weights(self) -> dict[str, Tensor]:
        """By the names of the published files."""
        return {**self.model.state_dict(), **{f"itm_score.fc.{end}": tensor for end, tensor in self.match.state_dict().items()}}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        match = {name.removeprefix("itm_score.fc."): tensor for name, tensor in weights.items() if name.startswith("itm_score.")}
        self.model.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("itm_score.")})
        self.match.load_state_dict(match)


def for_answers(config: ViltConfig, pretrained: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> ViltForQuestionAnswering:
    """The encoder of a pre-trained ViLT under a classifier that starts from `head`."""
    config.num_labels = len(head["classifier.3.bias"])
    model = ViltForQuestionAnswering(config)
    encoder = {name: tensor for name, tensor in pretrained.items() if name.startswith("vilt.")}
    model.load_state_dict({**encoder, **head})
    return model


class Steps(Dataset[Inputs]):
    """One item a step: the inputs of its whole batch, padded to the longest text and the largest picture in it."""

    def __init__(self, steps: int, inputs_of: Callable[[int], Inputs]):
        self.steps, self.inputs_of = steps, inputs_of

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Inputs:
        return self.inputs_of(step)


def alone(items: Sequence[Inputs]) -> Inputs:
    """The collator: items are batches already."""
    return items[0]


class EachStep(TrainerCallback):
    def __init__(self, then: Callable[[int], object]):
        self.then = then

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.then(state.global_step)


def groups(model: nn.Module, lr: float, weight_decay: float, head: str = "", head_lr: float = 1.0) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not (transformers stores [CLS] as 1 x 1 x D); what is named `head` has its own rate."""
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_head = bool(head) and name.startswith(head)
        found.setdefault((is_head, parameter.squeeze().ndim > 1), []).append(parameter)
    return [
        {"params": params, "lr": lr * (head_lr if is_head else 1.0), "weight_decay": weight_decay if decays else 0.0}
        for (is_head, decays), params in found.items()
    ]


def train(
    model: nn.Module,
    steps: Steps,
    out: str,
    *,
    parameters: list[dict[str, Any]],
    betas: tuple[float, float],
    eps: float,
    schedule: Callable[[int], float],
    clip: float | None,
    bf16: bool,
    log_every: int,
    then: Callable[[int], object],
) -> list[float]:
    """Train over all `steps` in their order; the mean losses of every `log_every`. `then` is called after each step."""
    optimizer = torch.optim.AdamW(parameters, betas=betas, eps=eps, fused=True)
    arguments = TrainingArguments(
        output_dir=out,
        max_steps=len(steps),
        per_device_train_batch_size=1,  # an item of `Steps` is a batch
        train_sampling_strategy="sequential",
        max_grad_norm=clip or 0.0,
        bf16=bf16,
        use_cpu=True,
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=log_every,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=steps,
        data_collator=alone,
        optimizers=(optimizer, LambdaLR(optimizer, schedule)),
        callbacks=[EachStep(then)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
