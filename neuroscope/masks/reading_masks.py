"""Read a mask from wherever it is: a file, a folder, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from os import PathLike

from neuroscope import files
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, FileError
from neuroscope.masks.hub import NAME, REPOSITORY, fetch, file_of
from neuroscope.masks.neuron_mask import NeuronMask

SUFFIXES = (".safetensors", ".json")


@public
def load_mask(
    path: str | PathLike, *, name: str | None = None, revision: str | None = None, token: str | None = None
) -> NeuronMask:
    """Read a mask that `mask.save` wrote, or that `mask.push_to_hub` put on the Hugging Face Hub.

    Args:
        path: a file; a folder of such files; or a repository of the Hub, such as "somebody/masks".
        name: of the mask, in a folder or a repository of several (None: "mask").
        revision: of the repository: a branch, a tag or a commit.
        token: for repositories that are not public (None: the one of `hf auth login`).

    Raises:
        FileError: no such file, folder or repository, or none that can be reached; or something else than a mask.

    Example:
        >>> import tempfile
        >>> mask = NeuronMask.of({"blocks.0.mlp.hook_post": [1, 2]}, {"blocks.0.mlp.hook_post": 4})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_mask(mask.save(f"{folder}/mask.safetensors")) == mask, load_mask(folder) == mask
        (True, True)
    """
    asked = "load_mask(path)"
    place = files.path_of(path, asked)
    file = file_of(NAME if name is None else name)
    known = {"name": name, "revision": revision, "token": token}
    if place.exists():
        of_hub = [key for key, value in known.items() if value is not None and (key != "name" or place.is_file())]
        if of_hub:
            found = f"{place}, a {'file' if place.is_file() else 'folder'} here, which has none"
            raise ArgumentError(f"load_mask({of_hub[0]}={known[of_hub[0]]!r})", found, "leave it out")
        return NeuronMask.load(place / file if place.is_dir() else place)
    repository = str(path)
    if not REPOSITORY.fullmatch(repository) or repository.endswith(SUFFIXES):
        raise FileError(f"load the mask {repository!r}", "no such file", "give a file, a folder, or 'user/repository'")
    if "/" in repository and place.parent.is_dir():  # a mistyped file rather than somebody else's repository
        found = f"no {place.name} in the folder {place.parent} here"
        raise FileError(
            f"load the mask {repository!r}", found, "check the name; a repository is fetched where no such folder is"
        )
    return NeuronMask.load(fetch(repository, file, revision, token))
