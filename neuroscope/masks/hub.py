"""Files of masks on the Hugging Face Hub: written in one commit, and fetched."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuroscope import files
from neuroscope.errors import ArgumentError, FileError, shown

NAME = "mask"  # of a mask in a repository, where no other is given
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def file_of(name: str) -> str:
    """The file of a mask of that name.

    Raises:
        ArgumentError: what is no part of a file's name.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ArgumentError(shown("name", name), "no name of a file", "give letters, digits, '-', '_' and '.'")
    return f"{name}.safetensors"


def fetch(repo_id: str, file: str, revision: str | None, token: str | None) -> Path:
    """A file of a repository, fetched unless it is here already.

    Raises:
        FileError: no such file or repository, or none that can be reached.
    """

    def download() -> str:
        import huggingface_hub  # only where the Hub is asked

        return huggingface_hub.hf_hub_download(repo_id, file, revision=revision, token=token)

    where = f"{repo_id!r}{'' if revision is None else f', revision {revision!r}'}"
    do = (
        "check name and revision, the network, and the token (hf auth login); or give a file that was copied from there"
    )
    return Path(_asked_of_hub(download, f"load {file} from the Hub's {where}", do))


def push(mask: Any, repo_id: str, name: str, private: bool | None, token: str | None) -> str:
    """Put a mask, and what is known of it in words, into a repository of the Hub in one commit; its address."""
    if not REPOSITORY.fullmatch(repo_id):
        raise ArgumentError(shown("repo_id", repo_id), "no name of a repository", "give one, such as 'somebody/masks'")
    file, asked = file_of(name), f"push a mask to the Hub's {repo_id!r}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            mask.save(Path(folder) / file)
            files.write(Path(folder) / f"{name}.md", mask.card().to_markdown())

            def upload() -> Any:
                import huggingface_hub  # only where the Hub is asked

                huggingface_hub.create_repo(repo_id, private=private, token=token, exist_ok=True)
                if private and not huggingface_hub.repo_info(repo_id, token=token).private:
                    raise ValueError("the repository exists and is public: private=True cannot make it private")
                return huggingface_hub.upload_folder(
                    repo_id=repo_id, folder_path=folder, token=token, commit_message=f"Add the mask {name}"
                )

            do = "check its name, the network, and the token (hf auth login); mask.save(path) keeps the mask in a file"
            commit = _asked_of_hub(upload, asked, do)
    except OSError as error:  # no room for the folder
        raise FileError(asked, str(error), "make room where temporary files are, or set TMPDIR") from error
    return str(getattr(commit, "commit_url", commit))


def _asked_of_hub(call: Callable[[], Any], asked: str, do: str) -> Any:
    """What the Hub answers; whatever goes wrong there is one error of ours."""
    try:
        return call()
    except Exception as error:  # the Hub's client raises many kinds, of the network, the token, the disk and the name
        text = " ".join(str(error).split())[:300]
        raise FileError(asked, f"{type(error).__name__}: {text}", do) from error
