"""A program: one job from photo to verified pictures, and then what the kernel counted of the network it ran in.

Started as `python -m tests.faults.alone FOLDER` in a network of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from face0_worker.faces.packs import load_pack
from tests.fakes import write_tiny_model
from tests.faults.conftest import prepared, running_house


def main(folder: Path) -> None:
    """Render two pictures in `folder` with embedded services and a worker; print the kernel's counts as JSON."""
    model = write_tiny_model(folder / "model", embedder_digest=load_pack(None).digest)
    (folder / "out").mkdir()
    with running_house(prepared(folder / "home", model, lease_s=60.0)) as house:
        house.all_done_once(house.submit(house.grant("alone"), 2), folder / "out")
    print(json.dumps({"pictures": len(list((folder / "out").glob("*.png"))), "network": network_counts()}))


def network_counts() -> dict[str, int]:
    """What this network namespace was asked to send: packets, connections, and what had no way out."""
    lines = Path("/proc/net/snmp").read_text().splitlines()
    counts: dict[str, int] = {}
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        kind = names.partition(":")[0]
        counts |= {f"{kind}{name}": int(n) for name, n in zip(names.split()[1:], numbers.split()[1:], strict=True)}
    for line in Path("/proc/net/snmp6").read_text().splitlines():
        name, number = line.split()
        counts[name] = int(number)
    wanted = (
        "IpOutRequests",
        "IpOutNoRoutes",
        "TcpActiveOpens",
        "UdpOutDatagrams",
        "Ip6OutNoRoutes",
        "Udp6OutDatagrams",
    )
    return {name: counts[name] for name in wanted}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
