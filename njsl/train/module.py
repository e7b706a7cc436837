"""The step: tokens to loss to gradients, the learning rate by tokens, and one norm to clip by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch.distributed.tensor import DTensor

from njsl.models.llama import Llama, document_ids
from njsl.train.optim import AdamW
from njsl.train.schedule import Schedule
from njsl.train.strategy import Single
from njsl.train.trainer import Hardware

NEVER = 2**62


class Pretraining(lightning.LightningModule):
    """A language model being pretrained.

    Args:
        make: builds the model, without weights that matter.
        seed: of the weights, which are the same whatever the processes.
        eos_id: ends every document.
        optim, schedule, strategy, hardware: of the run.

    Attributes:
        network: the model, from ``configure_model`` on.
        loss_sum: sum of the micro-batches' losses [nats per token] since it was last reset; a 0-d tensor.
        grad_norm: global gradient norm of the last step, before clipping; a 0-d tensor.
        first_bad_step: number of the first step whose loss or gradient was not finite, else ``NEVER``; a 0-d tensor.
    """

    def __init__(
        self,
        make: Callable[[], Llama],
        seed: int,
        eos_id: int,
        optim: AdamW,
        schedule: Schedule,
        strategy: Single,
        hardware: Hardware,
    ) -> None:
        super().__init__()
        self._make, self._seed, self._eos_id = make, seed, eos_id
        self._optim, self.schedule, self._strategy, self.hardware = optim, schedule, strategy, hardware
        self._masks_documents: bool = False
        self.network: Llama | None = None
        self.loss_sum = self.grad_norm = torch.zeros(())
        self.first_bad_step = torch.tensor(NEVER)

    def configure_model(self) -> None:
        """Build the network, once: weights, then checkpointing, then compilation, then shards."""
        if self.network is not None:
            return
        model = self._make()
        model.init_weights(self._seed)
        if self.hardware.activation_checkpointing:
            model.checkpoint_activations()
        if self.hardware.compile:
            for block in model.blocks():
                block.compile()
        self._strategy.parallelise(model, self._device_mesh, self.hardware)
        self._masks_documents = bool(model.attention.document_mask)
        self.network = model

    def on_fit_start(self) -> None:
        """Put what is counted where it is computed."""
        self.loss_sum = torch.zeros((), device=self.device)
        self.grad_norm = torch.zeros((), device=self.device)
        self.first_bad_step = torch.tensor(NEVER, device=self.device)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Loss of one micro-batch.

        Args:
            batch: int64 [micro_sequences, sequence_tokens + 1].
            batch_idx: not needed.

        Returns:
            Mean negative log-likelihood [nats per token].
        """
        loss = self.loss(batch)
        self.loss_sum += loss.detach()
        return loss

    def loss(self, batch: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Loss of windows of ``sequence_tokens + 1`` tokens: a mean, or per token with ``reduction="none"``."""
        assert self.network is not None, "configure_model comes first"
        tokens_BT, targets_BT = batch[:, :-1], batch[:, 1:]
        documents_BT = document_ids(tokens_BT, self._eos_id) if self._masks_documents else None
        return self.network(tokens_BT, targets_BT, documents_BT, reduction=reduction)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser; its learning rate is set step by step."""
        return self._optim.build(self.parameters())

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the global norm over all shards, keep the norm, and set the step's learning rate."""
        limit = self._optim.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), float("inf") if limit is None else limit)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        step = self.trainer.global_step + 1
        # Looked at on the device: whoever logs reads it, and no step waits for it.
        fine = torch.isfinite(self.grad_norm) & torch.isfinite(self.loss_sum)
        here = torch.where(fine, NEVER, step)
        self.first_bad_step = torch.minimum(self.first_bad_step, here)
        plan = self.schedule
        for group in optimizer.param_groups:
            group["lr"] = self._optim.lr_at(step * plan.step_tokens, plan.tokens)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Count batches from the checkpoint on: the loader starts there, and micro-batches may be of another size."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            for name in counts:
                counts[name] = 0
        progress["is_last_batch"] = False
