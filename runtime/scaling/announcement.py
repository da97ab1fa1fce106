"""Prometheus is told where each replica shows its metrics: a file for each (file_sd_configs)."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from s2d_trt.files import write_file


def announce(folder: Path, replica: str, address: str) -> None:
    """Write the file of a replica that listens on ``address``, ``HOST:PORT``; remove those of replicas that ended."""
    for file in folder.glob("*.json"):
        if not _listens(file):
            file.unlink(missing_ok=True)
    labels = {"replica": replica, "__meta_process": str(os.getpid())}
    content = [{"targets": [address], "labels": labels}]
    write_file(folder / f"{replica}.json", json.dumps(content))


def _listens(file: Path) -> bool:
    try:
        host, _, port = json.loads(file.read_text(encoding="utf-8"))[0]["targets"][0].rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return True
    except (OSError, ValueError, LookupError, TypeError):
        return False
