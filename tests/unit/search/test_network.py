"""The graph's packing and rounding against NumPy; checkpoints and exports say the same codes."""

import argparse
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from udmsh_pl.commands import export as command
from udmsh_pl.errors import InputError
from udmsh_pl.models import UDMSH, HashingModule, UDMSHPlus
from udmsh_pl.retrieval import pack_codes
from udmsh_pl.search import HashEncoder, ImageIndex, train
from udmsh_pl.search.checkpoint import read_checkpoint
from udmsh_pl.search.encoder import Runner, runner_of
from udmsh_pl.search.graph import pack_bits, read_network, to_int8, write_network
from udmsh_pl.search.pictures import decode


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 64, 100])
def test_bits_are_packed_as_the_retrieval_packs_them(bits: int) -> None:
    logits = torch.randn(9, bits, generator=torch.Generator().manual_seed(bits))
    logits[0, 0] = 0.0
    np.testing.assert_array_equal(pack_bits(logits).numpy(), pack_codes(logits))


def test_int8_keeps_cosines() -> None:
    features = torch.randn(40, 128, generator=torch.Generator().manual_seed(0))
    features[0] = 0
    rounded = to_int8(features)
    assert rounded.dtype == torch.int8
    assert int(rounded.abs().max()) == 127
    before, after = (
        torch.nn.functional.normalize(values.double(), dim=1) for values in (features, rounded)
    )
    torch.testing.assert_close(after @ after.T, before @ before.T, rtol=0, atol=0.01)


def save(module: HashingModule, path: Path, **options: Any) -> Path:
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": options}, path)
    return path


@pytest.fixture(scope="module")
def pixels(built: Path) -> np.ndarray[Any, Any]:
    paths = sorted((built / "pictures").glob("*.png"))[:3]
    return np.stack([decode(path.read_bytes(), path.name, 224).pixels for path in paths])


def codes_of(module: HashingModule, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    info = module.backbone_info
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (info.mean, info.std))
    with torch.no_grad():
        image = (torch.from_numpy(pixels) / 255 - mean) / std
        return pack_codes(module.eval()({"image": image}))


@pytest.mark.parametrize("branches", ["dual", "global", "spatial"])
def test_a_checkpoint_of_udmsh_gives_its_codes(
    tmp_path: Path, pixels: np.ndarray[Any, Any], branches: Any
) -> None:
    options = {"bits": 12, "hidden": 16, "spatial_hidden": 8, "branches": branches}
    module = UDMSH(**options)
    network, spec = read_checkpoint(save(module, tmp_path / "x.ckpt", **options))
    assert (spec.method, spec.bits, spec.dims) == ("DualBranchEncoder", 12, 0)
    with torch.no_grad():
        (codes,) = network(torch.from_numpy(pixels))
    np.testing.assert_array_equal(codes.numpy(), codes_of(module, pixels))
    both = branches == "dual"  # in one graph, which takes two seconds
    write_network(network, spec, tmp_path / "out", graph=both)
    # OpenVINO's graph may differ in the last digit
    for kind in ("torch", "openvino") if both else ("torch",):
        again = HashEncoder.load(tmp_path / "out", kind).encode(list(pixels.transpose(0, 2, 3, 1)))
        unlike = np.unpackbits(again.codes ^ codes.numpy()).sum()
        assert unlike <= (0 if kind == "torch" else 1)


@pytest.mark.slow
def test_a_checkpoint_becomes_an_index_with_a_rerank_feature(
    tmp_path: Path, built: Path, pixels: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UDMSH_CACHE", str(tmp_path / "cache"))
    options = {"bits": 12, "hidden": 16, "spatial_hidden": 8}
    module = UDMSH(**options)
    encoder = HashEncoder.load(save(module, tmp_path / "x.ckpt", **options))
    np.testing.assert_array_equal(
        encoder.encode(list(pixels.transpose(0, 2, 3, 1))).codes, codes_of(module, pixels)
    )
    index = ImageIndex.build(built / "pictures", encoder, tmp_path / "index")
    assert index.rows.features.shape == (12, 512)
    assert index.search(built / "pictures/04.png", k=1)[0].path == built / "pictures/04.png"
    by_torch = HashEncoder.load(tmp_path / "index", "torch")
    paths = [index.path_of(row) for row in range(12)]
    np.testing.assert_array_equal(by_torch.encode(paths).codes, index.rows.codes)


def test_a_checkpoint_of_udmsh_plus_gives_its_codes(
    tmp_path: Path, pixels: np.ndarray[Any, Any]
) -> None:
    options = {"bits": 16, "hidden": 32, "dims": 140}
    module = UDMSHPlus(**options)
    parts = torch.randn(200, 6400, generator=torch.Generator().manual_seed(0)).abs()
    module.encoder.fusion.fit(parts.clone())
    network, spec = read_checkpoint(save(module, tmp_path / "x.ckpt", **options))
    assert (spec.method, spec.bits, spec.dims) == ("FusedEncoder", 16, 140)
    with torch.no_grad():
        codes, features = network(torch.from_numpy(pixels))
    np.testing.assert_array_equal(codes.numpy(), codes_of(module, pixels))
    assert features.shape == (3, 140)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_a_hostile_or_foreign_checkpoint_is_one_line(tmp_path: Path, capfd: Any) -> None:
    torch.save({"state_dict": Evil(), "hyper_parameters": {}}, tmp_path / "evil.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.ckpt")
    named = {"_class_path": "os.system", "bits": 8}
    torch.save({"state_dict": {}, "hyper_parameters": named}, tmp_path / "named.ckpt")
    for path in [*tmp_path.glob("*.ckpt"), tmp_path / "none.ckpt"]:
        with pytest.raises(InputError) as told:
            HashEncoder.load(path)
        assert "\n" not in str(told.value)
        assert path.name in str(told.value)
    assert "run" not in capfd.readouterr().out


def features(count: int) -> dict[str, Any]:
    """Backbone features of groups of pictures."""
    generator = np.random.default_rng(0)
    centres = generator.random((5, 6400)) ** 4
    values = (centres[np.arange(count) % 5] + 0.3 * generator.random((count, 6400)) ** 4).astype(
        np.float32
    )
    return {
        "global_feature": values[:, :1280],
        "feature_map": values[:, 1280:].reshape(count, 1280, 2, 2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5, 90])
def test_few_pictures_get_codes_without_training(tmp_path: Path, count: int) -> None:
    found = features(count)
    spec = train.learn(found, tmp_path)
    head = read_network(tmp_path, spec).head
    assert spec.method == "SignEncoder"
    assert f"{count} pictures are too few" in spec.note
    codes, reranks = train.encode_features(head, found)
    assert (codes.shape, reranks.shape) == ((count, 8), (count, 512))
    assert len(np.unique(reranks, axis=0)) == count
    if count == 90:
        bits = np.unpackbits(codes, axis=1).astype(int)
        distances = (bits[:, None] != bits[None]).sum(2)
        same = np.arange(90)[:, None] % 5 == np.arange(90) % 5
        assert distances[same].mean() < 0.7 * distances[~same].mean()


@pytest.mark.slow
def test_enough_pictures_are_learned_from(tmp_path: Path) -> None:
    found = features(120)
    state = torch.get_rng_state()
    spec = train.learn(found, tmp_path, bits=16, least=100, steps=20)
    head = read_network(tmp_path, spec).head
    assert torch.equal(torch.get_rng_state(), state)
    assert spec.method == "FusedEncoder"
    assert "learned from 120 of your pictures" in spec.note
    codes, _ = train.encode_features(head, found)
    bits = np.unpackbits(codes, axis=1).astype(int)
    distances = (bits[:, None] != bits[None]).sum(2)
    same = np.arange(120)[:, None] % 5 == np.arange(120) % 5
    assert distances[same].mean() < 0.5 * distances[~same].mean()
    spec = train.learn(found, tmp_path, bits=16, least=100, steps=20)
    again, _ = train.encode_features(read_network(tmp_path, spec).head, found)
    np.testing.assert_array_equal(codes, again)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "torchscript", "onnx"])
def test_an_export_says_what_torch_says(
    built: Path, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = {
        "openvino": ["openvino"],
        "torchscript": [],
        "onnx": ["onnx", "onnxscript", "onnxruntime"],
    }
    for module in needs[target]:
        pytest.importorskip(module, reason=f"{module} is not installed: an extra of udmsh-pl")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = tmp_path / "out"
    arguments = [built / "index", "--format", target, "--out", out, "--check", built / "pictures"]
    assert command.run(parser.parse_args([str(one) for one in arguments])) == 0
    assert "12 pictures: 0 of 768 bits differ" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    encoder = HashEncoder.load(out)
    assert all(sha in card for sha in encoder.spec.files.values())
    paths = sorted((built / "pictures").glob("*.png"))
    np.testing.assert_array_equal(
        encoder.encode(paths).codes, ImageIndex.open(built / "index").encoder.encode(paths).codes
    )


WITHOUT = (
    "import sys, runpy; sys.modules |= dict.fromkeys({}); sys.argv = {}; "
    "runpy.run_path(sys.argv[0])"
)


@pytest.mark.slow
def test_the_example_searches_without_torch_and_without_us(built: Path, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"{module} is not installed: an extra of udmsh-pl")
    from udmsh_pl.search.export import export

    export(built / "index", "onnx", tmp_path)
    pictures = tmp_path / "pictures"
    shutil.copytree(built / "pictures", pictures, ignore=shutil.ignore_patterns("broken*"))
    example = Path(__file__).parents[3] / "examples/onnx_search.py"
    files = example, tmp_path / "encoder.onnx", pictures, pictures / "04.png"
    code = WITHOUT.format(["torch", "udmsh_pl", "openvino"], [str(file) for file in files])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = ImageIndex.open(built / "index").search(pictures / "04.png", 5, rerank=0)
    told = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert told[0] == ["0", str(pictures / "04.png")]
    assert [int(distance) for distance, _ in told] == [one.distance for one in own]


@pytest.mark.parametrize(
    ("runner", "read"), [("openvino", "encoder.bin"), ("torch", "encoder.safetensors")]
)
def test_files_are_checked_before_a_network_is_made_of_them(
    built: Path, tmp_path: Path, runner: Runner, read: str
) -> None:
    if runner == "openvino":
        pytest.importorskip(runner, reason=f"{runner} is not installed: an extra of udmsh-pl")
    HashEncoder.load(built / "index").save(tmp_path)
    picture = built / "pictures/00.png"
    expected = HashEncoder(tmp_path, runner).encode([picture])
    for name in dict.fromkeys(["encoder.safetensors", read]):
        with (tmp_path / name).open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        encoder = HashEncoder(tmp_path, runner)
        encoder.prepare()
        if name == read:
            with pytest.raises(InputError, match=f"{name} is missing, cut or altered"):
                encoder.encode([picture])
        else:  # which nothing is made of here
            assert (encoder.encode([picture]).codes == expected.codes).all()


def test_what_an_export_needs_is_told(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udmsh_pl.search.export.find_spec", lambda name: None)
    monkeypatch.setattr("udmsh_pl.search.export.has_openvino", lambda: False)
    from udmsh_pl.search.export import export

    with pytest.raises(InputError, match=r"udmsh-pl\[export\]"):
        export(built / "index", "onnx", tmp_path / "out")
    with pytest.raises(InputError, match=r"udmsh-pl\[extract\]"):
        export(built / "index", "openvino", tmp_path / "out")
    spec = HashEncoder.load(built / "index").spec
    with pytest.raises(InputError, match="cannot run on OpenVINO"):
        runner_of(built, type(spec)(**{**vars(spec), "files": {}}), "openvino")


def test_a_large_collection_is_learned_from_for_longer() -> None:
    assert [train.steps_for(count) for count in (400, 2000, 9000, 9990)] == [200, 300, 600, 1200]
