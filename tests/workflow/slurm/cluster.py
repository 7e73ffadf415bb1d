"""A Slurm of one node in a folder: started by a test, gone with it. Nothing below /etc is read or written."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import psutil

CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct")
DAEMONS = ("munged", "slurmctld", "slurmd")
# A socket's path has at most 107 characters, and Slurm appends the node's and the job's name.
LONGEST_FOLDER = 60

SLURM_CONF = """\
ClusterName=camflow
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
EnforcePartLimits=ALL
ReturnToService=2
MinJobAge=3600
KillWait=2
InactiveLimit=0
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=2880
PartitionName=gpu Nodes={host} MaxTime=2880
"""


class CannotStart(Exception):
    """Slurm cannot run here, with the reason."""


class Cluster:
    """A running Slurm; a context manager.

    Attributes:
        bin: folder of client commands that know this cluster; put it first on PATH. (A variable would not do: the
            Slurm plugin takes all SLURM_* out of the environment of its inner srun.)
    """

    def __init__(self, folder: Path, *, cpus: int = 8, memory: int = 200_000, gpus: int = 2):
        self.folder, self.bin = folder.resolve(), folder.resolve() / "bin"
        self._cpus, self._memory, self._gpus = cpus, memory, gpus

    def __enter__(self) -> Cluster:
        missing = [name for name in (*CLIENTS, *DAEMONS) if _find(name) is None]
        if missing:
            raise CannotStart(f"{', '.join(missing)} not installed (Debian: slurmctld slurmd munge slurm-client)")
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise CannotStart(f"{self.folder} is too long a path for the sockets that Slurm makes in it")
        if os.getuid():
            raise CannotStart("slurmd and the nodes of pretended GPUs need root")
        try:
            self._configure()
            self._start()
        except (CannotStart, OSError, subprocess.SubprocessError) as error:
            self.__exit__()
            raise CannotStart(f"{error}\n{self._last_words()}") from error
        return self

    def __exit__(self, *_) -> None:
        for name in reversed(DAEMONS):
            _stop(self.folder / f"{name}.pid")

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that uses this cluster."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        return {**kept, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *command: str) -> str:
        """Output of a client command."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job that ended, in order, as Slurm wrote it down: JobId, JobState, TimeLimit (minutes), Tres and more."""
        record = self.folder / "jobs.txt"
        lines = record.read_text().splitlines() if record.exists() else []
        return [dict(item.split("=", 1) for item in line.split() if "=" in item) for line in lines]

    def _configure(self) -> None:
        for name in ("state", "spool", "bin", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = socket.gethostname().split(".")[0]
        ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
        text = SLURM_CONF.format(
            folder=self.folder, host=host, user="root", cpus=self._cpus, memory=self._memory, gpus=self._gpus, **ports
        )
        (self.folder / "slurm.conf").write_text(text)
        # A GPU of Slurm is a character device; what is behind it does not matter here.
        for number in range(self._gpus):
            os.mknod(self.folder / f"dev/nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        files = f"{self.folder}/dev/nvidia[0-{self._gpus - 1}]"
        (self.folder / "gres.conf").write_text(f"NodeName={host} Name=gpu Type=fake File={files}\n")
        for name in CLIENTS:
            client = self.bin / name
            client.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {_find(name)} "$@"\n')
            client.chmod(0o755)

    def _start(self) -> None:
        munge = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log"}
        files = [f"--{option}={self.folder / name}" for option, name in {**munge, "seed-file": "munge.seed"}.items()]
        self._daemon("munged", "--force", *files)
        self._daemon("slurmctld", "-c")
        self._daemon("slurmd")
        end = time.monotonic() + 20
        while "idle" not in self.run("sinfo", "--noheader", "--format=%t"):
            if time.monotonic() > end:
                raise CannotStart("the node never became idle")
            time.sleep(0.1)

    def _daemon(self, name: str, *arguments: str) -> None:
        environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        subprocess.run(
            [_find(name), *arguments], env=environment, check=True, timeout=20,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _last_words(self) -> str:
        logs = [self.folder / f"{name}.log" for name in DAEMONS]
        return "\n".join(line for log in logs if log.exists() for line in log.read_text().splitlines()[-3:])


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def _stop(pid_file: Path, seconds: float = 10) -> None:
    """End a daemon by the id it wrote down and wait for the process; its file may be gone before it is."""
    with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + seconds
        while time.monotonic() < end and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
