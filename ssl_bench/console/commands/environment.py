"""``versions``: what a bug report needs."""

from __future__ import annotations


def versions() -> None:
    """Versions and device, for a bug report."""
    from ssl_bench.records.environment import code_version, device_name
    from ssl_bench.records.environment import installed_versions as found
    from ssl_bench.training.device import choose_device, choose_precision

    device = choose_device()
    print(f"ssl_bench {code_version()}")
    for name, version in found().items():
        print(f"{name} {version}")
    print(f"device {device_name(device)}, precision {choose_precision('auto', device)}")
