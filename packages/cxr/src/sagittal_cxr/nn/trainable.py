"""Which parameters of a loaded network are trained: used ones, and the last blocks if asked for."""

from __future__ import annotations

from torch import Tensor, nn

from sagittal_core.errors import ConfigError


def freeze_unused(network: nn.Module, result: Tensor) -> None:
    """Freeze the parameters that ``result``, computed with gradients on, does not depend on.

    Checkpoints bring classifiers, poolers and mask tokens that a pooled row has no use for.
    Distributed training waits for the gradient of every parameter that asks for one.
    """
    used, open_nodes, seen = set(), [result.grad_fn], set()
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        open_nodes += [following for following, _ in node.next_functions]
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in used)


def freeze_front(network: nn.Module, blocks: int | None, what: str) -> None:
    """Freeze all parameters that come before the last ``blocks`` blocks.

    Blocks are the entries of the network's longest ``nn.ModuleList`` or ``nn.Sequential``; what is
    registered after them (a last norm, a head) is trained with them.

    Args:
        network: Of which.
        blocks: How many stay trainable; 0: nothing of the network; None: everything does.
        what: Name of the option, for the message.

    Raises:
        ConfigError: The network has fewer blocks.
    """
    if blocks is None:
        return
    lists = [m for m in network.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    longest = max(lists, key=len, default=nn.ModuleList())
    if not 0 <= blocks <= len(longest):
        raise ConfigError(f"{what}: {blocks}; the network has {len(longest)} blocks")
    first = next(longest[-blocks].parameters()) if blocks else None
    for parameter in network.parameters():
        if parameter is first:
            return
        parameter.requires_grad_(False)
