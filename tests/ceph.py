"""The smallest real Ceph: one monitor, one OSD with its objects in memory, one radosgw, all on loopback."""

from __future__ import annotations

import secrets
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.authority import Authority
from tests.daemons import Daemons, listens

CEPH = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
DOMAIN = "s3.test"
_CONF = """[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}
admin socket =
pid file =
log file =
log to stderr = true
mon cluster log file =
mon data = {folder}/mon
mon data avail crit = 0
mon allow pool size one = true
mon max pg per osd = 1000
# pools are made one after another, and each step of it waits this long (a second by default)
paxos propose interval = 0.05
paxos min wait = 0.01
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
rgw data = {folder}/rgw
rgw dns name = {domain}
rgw enable gc threads = false
rgw enable lc threads = false
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: the ports of radosgw, and (access key, secret key) of its two users."""

    http: int
    https: int
    owner: tuple[str, str]
    nobody: tuple[str, str]
    domain: str = DOMAIN


def start_ceph(folder: Path, daemons: Daemons, authority: Authority, ports: tuple[int, int, int]) -> Cluster:
    """Start a cluster in an empty folder; `ports`: of the monitor, of http and of https."""
    mon, http, https = ports
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    conf = folder / "ceph.conf"
    conf.write_text(_CONF.format(folder=folder, fsid=fsid, mon=mon, domain=DOMAIN))
    given = ["-c", str(conf)]
    _make_keyring(folder / "keyring")
    monmap = str(folder / "monmap")
    _run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{mon}]", "--fsid", fsid, monmap)
    _run("ceph-mon", *given, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(folder / "keyring"))
    daemons.start("ceph-mon", ["ceph-mon", *given, "-f", "-i", "a"])
    _run("ceph", *given, "--connect-timeout", "60", "osd", "new", osd)
    (folder / "osd").mkdir()
    _run("ceph-osd", *given, "-i", "0", "--mkfs", "--osd-uuid", osd)
    daemons.start("ceph-osd", ["ceph-osd", *given, "-f", "-i", "0"])
    owner, nobody = _make_user(given, "owner"), _make_user(given, "nobody")
    cert, key = authority.sign(folder / "tls", ["127.0.0.1", "localhost", DOMAIN, f"*.{DOMAIN}"])
    frontend = (
        f"beast endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} ssl_certificate={cert} ssl_private_key={key}"
    )
    daemons.start("radosgw", ["radosgw", *given, "-f", "-n", "client.admin", "--rgw-frontends", frontend])
    daemons.wait_until(lambda: listens(http) and listens(https))
    return Cluster(http, https, owner, nobody)


def _make_keyring(file: Path) -> None:
    admin = ["--cap", "mon", "allow *", "--cap", "osd", "allow *"]
    _run("ceph-authtool", str(file), "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    _run("ceph-authtool", str(file), "--gen-key", "-n", "client.admin", *admin)
    _run("ceph-authtool", str(file), "--gen-key", "-n", "osd.0", "--cap", "mon", "allow profile osd", *admin[3:])


def _make_user(given: list[str], name: str) -> tuple[str, str]:
    access, secret = secrets.token_hex(10).upper(), secrets.token_hex(20)
    keys = ["--access-key", access, "--secret-key", secret]
    _run("radosgw-admin", *given, "user", "create", "--uid", name, "--display-name", name, *keys)
    return access, secret


def _run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... ended with {ran.returncode}: {ran.stderr[-500:]}")
