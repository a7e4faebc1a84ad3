"""Without a network, weights that are not on the disk end with one line, and soon."""

import socket
import time
from pathlib import Path

import pytest

from udmsh_pl.backbones.networks import build_backbone
from udmsh_pl.backbones.weights import fetching, reachable
from udmsh_pl.errors import InputError


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(-2, "Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_no_network_is_one_line_within_seconds(no_network: None, name: str) -> None:
    started = time.perf_counter()
    with pytest.raises(InputError, match=f"{name}.*cannot be downloaded.*--model.weights") as told:
        build_backbone(name)
    assert time.perf_counter() - started < 10
    assert "\n" not in str(told.value)


def test_only_an_unreachable_hub_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for within_reach in (True, False):
        monkeypatch.setattr("udmsh_pl.backbones.weights.reachable", lambda _, to=within_reach: to)
        with fetching("resnet18"):
            assert constants.HF_HUB_OFFLINE is not within_reach
    assert not constants.HF_HUB_OFFLINE


def test_a_host_that_listens_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"https://127.0.0.1:{port}/some/path")
    assert not reachable(f"https://127.0.0.1:{port}")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert reachable(f"https://127.0.0.1:{port}")  # the proxy's business
