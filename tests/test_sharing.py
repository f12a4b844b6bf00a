"""Masks on the Hub (a fake of its client), adapters for PEFT, additions as control vectors: read by the libraries."""

import contextlib
import json
import shutil
import types
from pathlib import Path

import families
import huggingface_hub
import peft
import pytest
import torch
from families import build, inputs, logprobs
from gguf import GGUFReader
from safetensors.torch import load_file
from state import unchanged

import neuroscope as ns
from neuroscope.errors import ArgumentError, FileError, ModelError
from neuroscope.models.running import logits_of

CLOSE = {"atol": 1e-5, "rtol": 0}
MASK = ns.NeuronMask.of({"blocks.0.mlp.hook_post": [1, 2]}, {"blocks.0.mlp.hook_post": 4}, "hidden", {"task": "a"})


class Hub:
    """What the client's functions do, with a folder in the place of the Hub."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.asked, self.is_private = folder, [], True
        for name in ("create_repo", "repo_info", "upload_folder", "hf_hub_download"):
            monkeypatch.setattr(huggingface_hub, name, getattr(self, name))

    def create_repo(self, repo_id, **how):
        self.asked.append(("create_repo", how))
        assert how["exist_ok"]
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)

    def repo_info(self, repo_id, token):
        return types.SimpleNamespace(private=self.is_private)

    def upload_folder(self, repo_id, folder_path, **how):
        self.asked.append(("upload_folder", how))
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
        return huggingface_hub.CommitInfo(f"https://huggingface.co/{repo_id}/commit/1", how["commit_message"], "", "1")

    def hf_hub_download(self, repo_id, filename, **how):
        self.asked.append(("hf_hub_download", how))
        path = self.folder / repo_id / filename
        if not path.exists():
            raise ConnectionError(f"404 for {filename}")
        return str(path)


def test_a_mask_goes_to_the_hub_and_comes_back(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub", monkeypatch)
    assert MASK.push_to_hub("me/masks") == "https://huggingface.co/me/masks/commit/1"
    assert (~MASK).push_to_hub("me/masks", name="rest", private=True, token="t")
    assert ns.load_mask("me/masks") == MASK and ns.load_mask("me/masks", name="rest", revision="r") == ~MASK
    assert dict(ns.load_mask("me/masks").manifest) == {"task": "a"}
    files = {path.name for path in (tmp_path / "hub" / "me" / "masks").iterdir()}
    assert files == {"mask.safetensors", "mask.md", "rest.safetensors", "rest.md"}
    assert "2 of 4 hidden neurons" in (tmp_path / "hub" / "me" / "masks" / "mask.md").read_text()
    assert [name for name, _ in hub.asked] == ["create_repo", "upload_folder"] * 2 + ["hf_hub_download"] * 3
    assert hub.asked[2][1] == {"private": True, "token": "t", "exist_ok": True}
    assert hub.asked[5][1] == {"revision": "r", "token": None}
    with pytest.raises(FileError, match=r"load other.safetensors from the Hub's 'me/masks'\n.*404"):
        ns.load_mask("me/masks", name="other")


def test_a_mask_that_is_to_be_private_is_not_put_where_all_can_read(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub", monkeypatch)
    hub.is_private = False
    with pytest.raises(FileError, match="the repository exists and is public"):
        MASK.push_to_hub("me/masks", private=True)
    assert not list((tmp_path / "hub" / "me" / "masks").iterdir())


def test_a_mistyped_file_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub", monkeypatch)
    MASK.push_to_hub("runs/nli")
    monkeypatch.chdir(tmp_path)
    assert ns.load_mask("runs/nli") == MASK
    Path("runs").mkdir()
    with pytest.raises(FileError, match="no nli in the folder runs here"):
        ns.load_mask("runs/nli")
    assert [name for name, _ in hub.asked].count("hf_hub_download") == 1


def test_a_mask_is_read_from_files_and_folders(tmp_path):
    path = MASK.save(tmp_path / "mask.safetensors")
    MASK.save(tmp_path / "b.safetensors")
    assert ns.load_mask(path) == ns.load_mask(tmp_path) == ns.load_mask(tmp_path, name="b") == MASK
    for wrong in ({"name": "b"}, {"revision": "main"}, {"token": "t"}):
        with pytest.raises(ArgumentError, match=f"{next(iter(wrong))}=.*\n.*a file here"):
            ns.load_mask(path, **wrong)
    for missing in (tmp_path / "c.safetensors", "c.safetensors", "a/b/c", "c.json"):
        with pytest.raises(FileError, match="no such file"):
            ns.load_mask(missing)
    for name in ("../up", "", "a/b", " "):
        with pytest.raises(ArgumentError, match="name"):
            ns.load_mask(tmp_path, name=name)
    with pytest.raises(ArgumentError, match="repo_id"):
        MASK.push_to_hub("a/b/c")


def test_a_hub_that_cannot_be_reached_and_a_full_disk_are_told(tmp_path, monkeypatch):
    path = MASK.save(tmp_path / "mask.safetensors")
    before = path.read_bytes()
    with pytest.raises(FileError, match=r"push a mask to the Hub's 'me/masks'\n(.|\n)*mask.save"):
        MASK.push_to_hub("me/masks")  # the client's own functions, which tests keep offline
    with pytest.raises(FileError, match=r"load mask.safetensors from the Hub's 'me/masks'"):
        ns.load_mask("me/masks")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("tempfile.mkdtemp", full)
        with pytest.raises(FileError, match="No space left on device"):
            MASK.push_to_hub("me/masks")
    with monkeypatch.context() as disk:
        disk.setattr("safetensors.torch.save_file", full)
        with pytest.raises(FileError, match="No space left on device"):
            MASK.push_to_hub("me/masks")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def adapted(name, seed=0):
    """A model with an adapter of random changes on some neurons of each layer."""
    model = ns.load(build(name))
    mask = ns.NeuronMask.of({a: [1, 4 + i, 20] for i, a in enumerate(model.sites())}, model)
    adapter = ns.NeuronAdapter(model, mask)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model, adapter


def opened_by_peft(name, folder):
    """The log-probabilities of the base with what is in a folder, by PEFT."""
    root = peft.PeftModel.from_pretrained(build(name), folder).eval()
    with torch.no_grad():
        style = ns.load(build(name)).style
        return logits_of(root(**inputs(style))).log_softmax(-1)


@pytest.mark.parametrize("name", families.DENSE)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_peft_gives_the_logits_of_the_adapter(name, tmp_path):
    model, adapter = adapted(name)
    adapter.scale = 0.5
    expected, bare = logprobs(model), logprobs(ns.load(build(name)))
    assert (expected - bare).abs().max() > 0.05
    with unchanged(model.root):
        adapter.to_peft(tmp_path / "out")
    torch.testing.assert_close(opened_by_peft(name, tmp_path / "out"), expected, **CLOSE)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    ranks, tensors = config["rank_pattern"], load_file(tmp_path / "out" / "adapter_model.safetensors")
    fused = name == "phi3"
    assert set(ranks.values()) == ({3, 6} if fused else {3}) and config["alpha_pattern"] == ranks
    card, stored = (tmp_path / "out" / "README.md").read_text(), sum(t.numel() for t in tensors.values())
    assert f"rank 3 to {6 if fused else 3} at {len(ranks)} layers, {stored:,} numbers for" in card
    assert f"{adapter.n_parameters:,} that were trained" in card and adapter.base in card


def test_a_merged_adapter_is_written_too_and_one_that_cannot_be_is_refused(tmp_path, monkeypatch):
    model, adapter = adapted("llama")
    expected = logprobs(model)
    adapter.merge()
    adapter.to_peft(tmp_path / "out")
    torch.testing.assert_close(opened_by_peft("llama", tmp_path / "out"), expected, **CLOSE)
    with pytest.raises(FileError, match="something is there already"):
        adapter.to_peft(tmp_path / "out")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("safetensors.torch.save_file", full)
        with pytest.raises(FileError, match="No space left on device"):
            adapter.to_peft(tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    adapter.detach()
    with pytest.raises(ModelError, match="detached"):
        adapter.to_peft(tmp_path / "other")


def test_outputs_and_columns_by_hand(tmp_path):
    """W = W0 + the change of row 2, of the FFN's output: B is the unit vector, A the change."""
    model = ns.load(build("opt"))
    adapter = ns.NeuronAdapter(model, ns.NeuronMask.of({1: [2]}, model, "output"))
    with torch.no_grad():
        adapter.placed[0].delta.weight.copy_(torch.arange(48.0)[None] / 100)
        adapter.placed[0].delta.bias.fill_(0.25)
    expected = logprobs(model)
    adapter.to_peft(tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    path = "base_model.model.model.decoder.layers.1.fc2.lora_"
    assert tensors[f"{path}A.weight"].tolist() == [(torch.arange(48.0) / 100).tolist()]
    assert tensors[f"{path}B.weight"][:, 0].tolist() == [0, 0, 1] + [0] * 29
    assert tensors[f"{path}B.bias"].tolist() == [0, 0, 0.25] + [0] * 29
    torch.testing.assert_close(opened_by_peft("opt", tmp_path / "out"), expected, **CLOSE)


@contextlib.contextmanager
def steered(model, path):
    """The model as llama.cpp runs it: direction.N is added to the residual stream after block N."""
    directions = {int(t.name.split(".")[1]): torch.tensor(t.data) for t in GGUFReader(path).tensors}
    blocks = next(m for m in model.root.modules() if isinstance(m, torch.nn.ModuleList))

    def plus(module, args, output, direction):
        is_tuple = isinstance(output, tuple)
        first = (output[0] if is_tuple else output) + direction
        return (first, *output[1:]) if is_tuple else first

    handles = [
        blocks[n].register_forward_hook(lambda m, a, o, d=direction: plus(m, a, o, d))
        for n, direction in directions.items()
    ]
    try:
        yield directions
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "neox", "opt", "qwen2", "qwen3", "mistral", "phi3"])
def test_what_is_added_is_a_control_vector(name, tmp_path):
    model = ns.load(build(name))
    mask = ns.NeuronMask.of({1: [3, 7]}, model)
    address = "blocks.1.mlp.hook_post"
    each = torch.zeros(model.sites()[address].width)
    each[3], each[7], each[5] = 2.0, -1.5, 9.0  # the last is not of the mask
    for number, amount in enumerate((2.0, {address: each})):
        path = tmp_path / f"{number}.gguf"
        with unchanged(model.root):
            ns.add(model, mask, amount).to_gguf(path)
        with ns.add(model, mask, amount):
            expected = logprobs(model)
        with steered(model, path) as directions:
            torch.testing.assert_close(logprobs(model), expected, **CLOSE)
        terms = (2.0, 2.0) if number == 0 else (2.0, -1.5)
        columns = model.sites()[address].out[0].view().detach()
        assert list(directions) == [1]
        torch.testing.assert_close(directions[1], terms[0] * columns[:, 3] + terms[1] * columns[:, 7], **CLOSE)
    fields = GGUFReader(path).fields
    assert fields["general.architecture"].contents() == "controlvector"
    assert fields["controlvector.model_hint"].contents() == model.config.model_type
    assert fields["controlvector.layer_count"].contents() == 1


def test_outputs_are_directions_themselves(tmp_path):
    model = ns.load(build("llama"))
    path = ns.add(model, ns.NeuronMask.of({1: [3]}, model, "output"), 0.5).to_gguf(tmp_path / "v.gguf")
    assert torch.tensor(GGUFReader(path).tensors[0].data).tolist() == [0, 0, 0, 0.5] + [0] * 28


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_constant_vector_is_refused(tmp_path, monkeypatch):
    model = ns.load(build("llama"))
    path = tmp_path / "v.gguf"
    for scope in (
        ns.scale(model, {1: [3]}, 2.0),
        ns.ablate(model, {1: [3]}),
        ns.ablate(model, {1: [3]}, value=1.0),
        ns.add(model, {1: [3]}, 2.0, at="last"),
        ns.add(model, {1: [3]}, 2.0, when=ns.between(0, 1)),
    ):
        with pytest.raises(ModelError, match="depends on the activations or on the token"):
            scope.to_gguf(path)
    with pytest.raises(ModelError, match="no direction"):
        ns.add(model, {0: [3], 1: [3]}, 2.0).to_gguf(path)
    with pytest.raises(ModelError, match="no constant into the residual stream"):
        ns.add(model, ns.NeuronMask.of({1: [0]}, model, "head"), 2.0).to_gguf(path)
    for name in ("gemma2", "gemma3"):  # a norm after the FFN
        other = ns.load(build(name))
        with unchanged(other.root), pytest.raises(ModelError, match="a norm or a factor after the FFN"):
            ns.add(other, {1: [3]}, 2.0).to_gguf(path)
    with pytest.raises(ModelError, match="of a masked model"):
        ns.add(ns.load(build("bert")), {1: [3]}, 2.0).to_gguf(path)
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ModelError, match=r"neuroscope\[gguf\]"):
            ns.add(model, {1: [3]}, 2.0).to_gguf(path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("gguf.GGUFWriter.write_tensors_to_file", full)
        with pytest.raises(FileError, match="No space left on device"):
            ns.add(model, {1: [3]}, 2.0).to_gguf(path)
    assert list(Path(tmp_path).iterdir()) == []
