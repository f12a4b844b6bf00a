"""What neurons are called: "11.1229" where a layer has one site, else the site's address and the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor


def layer_of(address: str) -> int:
    """The layer in an address; -1 where it names none.

    Example:
        >>> layer_of("blocks.3.mlp.experts.1.hook_post"), layer_of("somewhere")
        (3, -1)
    """
    return next((int(part) for part in address.split(".") if part.isdigit()), -1)


def block_of(address: str) -> str:
    """An address up to its layer, which all sites of a layer share; the whole where it names none.

    Example:
        >>> block_of("blocks.3.mlp.experts.1.hook_post"), block_of("some.where")
        ('blocks.3', 'some.where')
    """
    parts = address.split(".")
    end = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: end + 1])


def names_of_sites(addresses: Sequence[str]) -> dict[str, str]:
    """What each site is called in the names of its neurons.

    Example:
        >>> names_of_sites(["blocks.0.mlp.hook_post", "blocks.1.mlp.experts.0.hook_post", "blocks.1.mlp.hook_post"])
        ... # doctest: +NORMALIZE_WHITESPACE
        {'blocks.0.mlp.hook_post': '0', 'blocks.1.mlp.experts.0.hook_post': 'blocks.1.mlp.experts.0.hook_post',
         'blocks.1.mlp.hook_post': 'blocks.1.mlp.hook_post'}
    """
    sites = Counter(map(layer_of, addresses))
    return {a: str(layer_of(a)) if sites[layer_of(a)] == 1 else a for a in addresses}


def names_of(mask: Mapping[str, Tensor]) -> list[str]:
    """The names of a mask's neurons, in forward order."""
    sites = names_of_sites(list(mask))
    return [f"{sites[address]}.{index}" for address, indices in mask.items() for index in indices.tolist()]
