"""The loop of a training: epochs, batches, steps, and a report with a checkpoint at the end of each epoch.

Everything random is drawn from (seed, epoch, index), never from a generator whose state would be lost: killed and
started again, a training goes on from its last epoch with the same order of data and ends the same.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from modelport.learning.learner import Learner, learning_rate
from modelport.training import Run


def fit(
    run: Run,
    network: nn.Module,
    *,
    loss: Callable[[nn.Module, Sequence[int], int], Tensor],
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    start: Callable[[nn.Module], None] | None = None,
) -> None:
    """Train to the end, or go on with a training that was interrupted.

    Of the parameters it reads ``epochs``, ``batch_size`` (of all workers together), ``learning_rate`` (the highest)
    and ``weight_decay``. What is reported with every epoch is the mean training loss and what `evaluate` returns.

    Args:
        run: As given to ``train(run)``.
        network: With initial weights.
        loss: Mean loss of a batch, from the network in training mode (with several workers it is wrapped), the
            examples' indices into ``run.train`` and the epoch's number.
        evaluate: Metrics on ``run.selection`` of the network that would be served: the running average of the weights,
            in eval mode. ``train.select.metric`` is among them.
        start: Changes the network when a training begins afresh, such as by loading pretrained weights.
    """
    learner = Learner(network.to(run.device), float(run.parameters["weight_decay"]))
    state = run.resume()
    if state is not None:
        learner.restore(state)
    elif start is not None:
        start(learner.network)
    parallel = run.prepare(learner.network)
    if state is None:
        learner.average.load_state_dict(learner.network.state_dict())
    for epoch in run.epochs(int(run.parameters["epochs"])):
        mean = _epoch(run, learner, parallel, loss, epoch)
        metrics = {"loss": mean}
        if run.rank == 0:  # whose metrics and checkpoint are kept
            with torch.no_grad():
                metrics |= evaluate(learner.average.eval())
        run.report(metrics, {**learner.state(), "metrics": metrics}, epoch=epoch)


def _epoch(
    run: Run,
    learner: Learner,
    parallel: nn.Module,
    loss: Callable[[nn.Module, Sequence[int], int], Tensor],
    epoch: int,
) -> float:
    """Learn from every example once, in an order drawn from (seed, epoch); the mean loss."""
    order = np.random.default_rng((run.seed, epoch)).permutation(len(run.train)).tolist()
    mine = run.shard(order)
    # What does not fill a batch is left out; the next epoch has another order.
    batch_size = min(max(1, int(run.parameters["batch_size"]) // run.world_size), len(mine))
    steps = len(mine) // batch_size
    total_steps = steps * int(run.parameters["epochs"])
    peak = float(run.parameters["learning_rate"])
    parallel.train()
    losses: list[float] = []
    for step in range(steps):
        batch = loss(parallel, mine[step * batch_size : (step + 1) * batch_size], epoch)
        number = epoch * steps + step
        learner.step(batch, learning_rate(number / total_steps, peak), number)
        losses.append(batch.item())
        run.progress(step + 1, steps, loss=losses[-1])
    return sum(losses) / len(losses)
