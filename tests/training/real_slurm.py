"""A real SLURM of one node on loopback: ``python -m tests.training.real_slurm`` starts one and says how to use it.

Needs Debian's slurm-wlm and munge (``apt-get install slurm-wlm munge``) and root. Nothing outside a folder of its own
is read or written, so a SLURM of the machine is left alone.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel", "squeue")
CONF = """
ClusterName=openlvd
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
# a job that is queued again waits as long as a credential lives
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no SLURM can be started here; None where one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed; apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "slurmd needs root"


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd; yields what the environment of SLURM's commands needs."""
    with tempfile.TemporaryDirectory(prefix="slurm") as name:
        folder = Path(name)
        for sub in ("state", "spool"):
            (folder / sub).mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        folder.chmod(0o755)
        host = socket.gethostname()
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=host, folder=folder, ports=_free_ports(2), cpus=os.cpu_count()))
        environment = {"SLURM_CONF": str(conf), "PATH": _path()}
        munge = [f"--{option}={folder}/munge.{end}" for option, end in (("socket", "socket"), ("pid-file", "pid"))]
        munge += [f"--{option}={folder}/munge.{option}" for option in ("log-file", "seed-file")]
        commands = [
            ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
            ["slurmctld", "-D", "-f", str(conf)],
            ["slurmd", "-D", "-f", str(conf), "-N", host],
        ]
        started: list[subprocess.Popen] = []
        try:
            for command in commands:
                output = (folder / f"{command[0]}.out").open("w")
                started.append(
                    subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT)
                )
                time.sleep(0.5)
            _wait_until_idle(environment, folder)
            yield environment
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(30)


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    said = ""
    for _ in range(120):
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=os.environ | environment, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in folder.glob("*.out"))
    raise RuntimeError(f"no idle node after a minute: {said}\n{logs}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where Debian has the daemons


if __name__ == "__main__":
    if (reason := missing()) is not None:
        raise SystemExit(reason)
    with slurm() as values:
        print("export " + " ".join(f"{key}={value}" for key, value in values.items()))
        input("running; Enter ends it ")
