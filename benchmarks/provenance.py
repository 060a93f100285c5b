"""What a measurement must say beside its figures: commit, machine, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

import crystalpredict


def provenance() -> dict[str, str]:
    """Commit of the checkout, processor and versions of what computes."""
    root = Path(__file__).resolve().parents[1]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True).stdout
    return {
        "commit": commit.strip() or "unknown",
        "machine": f"{os.cpu_count()} x {_processor()}",
        "versions": f"crystalpredict {crystalpredict.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
