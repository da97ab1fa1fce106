"""Prometheus finds the replicas that listen, and only those."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from runtime.scaling.announcement import announce


def test_a_replica_is_named_with_its_address(tmp_path: Path) -> None:
    announce(tmp_path / "new", "one", "127.0.0.1:1")
    (target,) = json.loads((tmp_path / "new" / "one.json").read_text(encoding="utf-8"))
    assert target["targets"] == ["127.0.0.1:1"]
    assert target["labels"]["replica"] == "one"


def test_files_of_replicas_that_ended_are_removed_when_another_begins(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as ended:
        announce(tmp_path, "listens", f"127.0.0.1:{listening.getsockname()[1]}")
        announce(tmp_path, "ended", f"127.0.0.1:{ended.getsockname()[1]}")
        ended.close()
        (tmp_path / "broken.json").write_text("{}")
        announce(tmp_path, "new", "127.0.0.1:1")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["listens.json", "new.json"]
