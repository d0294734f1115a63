"""A real one-node SLURM cluster on loopback, from Debian's `slurm-wlm` and `munge`, without systemd
or a database.

As a library:  with cluster(folder, cpus=2, gpus=2) as c: c.run("sbatch", "--wrap=hostname")
As a script:   python -m tests.slurm.cluster run --folder DIR -- snakemake --profile slurm
               eval "$(python -m tests.slurm.cluster start --folder DIR)"; squeue; ... stop --folder
               DIR

Everything is in the folder: configuration, key, state, spool, logs, pid files. CPUs, memory and
GPUs are bookkeeping, so the node may claim more of each than the machine has. Finished jobs stay in
`squeue --states=all`; there is no `sacct`.
"""

import argparse
import contextlib
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.ports import free_ports

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = (
    os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
)  # where the daemons are, and a user's PATH is not

CONF = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2,requeue_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
EnforcePartLimits=ALL
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=30
KillWait=5
JobRequeue=1
MinJobAge=86400
GresTypes=gpu
SlurmdParameters=config_overrides
"""
MEMORY = {
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "task=1",
    "JobAcctGatherParams": "OverMemoryKill",
}
PREEMPT = {"PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE"}


def missing():
    """The programs of SLURM that are not installed."""
    return [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=PATH) is None]


class Cluster:
    """One munged, one slurmctld and one slurmd, in `folder`, run by the current user.

    cpus, gpus, memory_mb: what the node `localhost` claims to have. A job gets 100 MB for each CPU
    unless it asks for more. preempt: adds to the default partition `gpu` the partition `urgent`,
    whose jobs requeue those of `gpu` at once; for a grace period, `scontrol update
    PartitionName=gpu GraceTime=10`. enforce_memory: kills a job a second or two after it used more
    memory than it asked for (FAILED, never OUT_OF_MEMORY). slurm_conf_overrides: lines of
    slurm.conf that replace those here, such as SlurmdTimeout=10.
    """

    def __init__(
        self,
        folder,
        cpus=2,
        gpus=2,
        memory_mb=8000,
        preempt=False,
        enforce_memory=False,
        **slurm_conf_overrides,
    ):
        self.folder = Path(folder).resolve()
        self.cpus, self.gpus, self.memory_mb, self.preempt = cpus, gpus, memory_mb, preempt
        self.overrides = (
            (PREEMPT if preempt else {}) | (MEMORY if enforce_memory else {}) | slurm_conf_overrides
        )
        self.environment = {"SLURM_CONF": str(self.folder / "etc/slurm.conf")}

    def start(self):
        """Write the configuration, start the daemons and wait for the node; if it does not get
        ready, stop and raise.
        """
        if self.processes():
            raise RuntimeError(f"a cluster already runs in {self.folder}")
        root = self._write()
        try:
            self._daemon(
                "munged",
                "--force",
                f"--key-file={root}/munge/key",
                f"--seed-file={root}/munge/seed",
                f"--socket={root}/run/munge.socket",
                f"--pid-file={root}/run/munged.pid",
                f"--log-file={root}/log/munged.log",
            )
            self._daemon("slurmctld", "-i")
            self.start_slurmd()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        """End the daemons, the job steps and the jobs' processes; those that have died already do
        not matter.
        """
        # politely: it saves its state, so that a later start in the same folder knows the jobs
        self.stop_slurmctld()
        self._kill(self.processes)
        self._remove_shortcut()

    def stop_slurmd(self, steps=False):
        """Kill slurmd (-9); with `steps` also slurmstepd and the jobs, as if the node had lost
        power.
        """
        self._kill(lambda: self.processes("slurmd") if steps else self._pids("slurmd"))

    def start_slurmd(self):
        """Start slurmd and wait until its node is ready."""
        self._daemon("slurmd", "-N", "localhost")
        self.wait_ready()

    def start_slurmctld(self):
        """Start the controller on the state that it has saved."""
        self._daemon("slurmctld", "-i")
        self.wait_ready()

    def restart_slurmctld(self):
        """End the controller, which saves its state, and start it again; jobs run on."""
        self.stop_slurmctld()
        self.start_slurmctld()

    def wait_ready(self, timeout=20):
        """Wait until the node is idle or runs jobs; else RuntimeError with its state and the ends
        of the logs.
        """
        deadline = time.monotonic() + timeout
        state = ""
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                found = self.run("sinfo", "-h", "-N", "-o", "%T %E", timeout=10)
                state = found.stdout + found.stderr
                if state.split(maxsplit=1)[:1] in (
                    ["idle"],
                    ["mixed"],
                    ["allocated"],
                ):  # idle*: it does not respond
                    return
            time.sleep(0.05)
        logs = [
            f"--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted(self.folder.glob("log/*.log"))
        ]
        raise RuntimeError("\n".join([f"the node is not ready after {timeout} s: {state}", *logs]))

    def run(self, *command, timeout=30, **keywords):
        """subprocess.run of a client in this cluster's environment, text captured; a time limit, as
        srun can wait for ever.
        """
        keywords = {"capture_output": True, "text": True, "env": self._environment()} | keywords
        return subprocess.run([str(part) for part in command], timeout=timeout, **keywords)

    def processes(self, *daemons):
        """Pids of the daemons (default: all), of the slurmstepd that slurmd left, and of everything
        that runs in a job.

        Job steps are no children of slurmd and have no pid file, but hold slurmd's log open for
        writing. The processes below them are found by descent, and if their parents have died, by
        the variables that SLURM gives to a job.
        """
        daemons = daemons or DAEMONS
        logs = {str(self.folder / f"log/{name}.log") for name in daemons}
        marks = {
            f"SLURM_CONF={self.environment['SLURM_CONF']}".encode(),
            b"SLURMD_NODENAME=localhost",
        }
        parents, ours = {}, set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it has ended, or belongs to someone else
                if not entry.name.isdigit() or (stat := _stat(entry.name)) is None:
                    continue
                parents[int(entry.name)] = stat
                if (
                    any(_writes(fd, logs) for fd in (entry / "fd").iterdir())
                    or "slurmd" in daemons
                    and marks <= set((entry / "environ").read_bytes().split(b"\0"))
                ):
                    ours.add(int(entry.name))
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return ours - {os.getpid()}

    def _pids(self, daemon):
        """The pid in a daemon's pid file, if that process still is the daemon, as a set."""
        with contextlib.suppress(OSError, ValueError):
            return {int((self.folder / f"run/{daemon}.pid").read_text())} & self.processes(daemon)
        return set()

    def stop_slurmctld(self, patience=10):
        """End the controller, which saves its state."""
        pids = self._pids("slurmctld")
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while any(_stat(pid) is not None for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._kill(lambda: self.processes("slurmctld"))

    @staticmethod
    def _kill(find, patience=10):
        """Kill what `find()` names until it names nothing: what is killed may have been starting
        something.
        """
        deadline = time.monotonic() + patience
        while pids := find():
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {sorted(pids)} survive SIGKILL")
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _daemon(self, name, *arguments):
        done = self.run(
            shutil.which(name, path=PATH) or name,
            *arguments,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"{name} did not start: {done.stderr or done.stdout}")

    def _environment(self):
        """The caller's, without the job that it may itself run in."""
        outer = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SLURM", "SBATCH", "SQUEUE"))
        }
        return outer | self.environment

    def _write(self):
        """Write the configuration; the path by which the daemons know the folder."""
        for name in ("etc", "state", "spool", "log", "run", "munge", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge/key"
        if not key.exists():
            key.touch(0o600)
            key.write_bytes(secrets.token_bytes(128))
        self._remove_shortcut()
        root = self.folder
        if (
            len(str(root)) > 60
        ):  # sockets are run/munge.socket and spool/localhost_<job>.<step>: 107 bytes at most
            root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")) / "c"
            root.symlink_to(self.folder)
            (self.folder / "run/shortcut").symlink_to(root)
        for index in range(
            self.gpus
        ):  # SLURM wants a character device each, with a number at the end of its name
            device = self.folder / f"dev/gpu{index}"
            device.unlink(missing_ok=True)
            device.symlink_to("/dev/null")
        ctld_port, slurmd_port = free_ports(2)
        written = CONF.format(
            root=root,
            user=pwd.getpwuid(os.getuid()).pw_name,
            ctld_port=ctld_port,
            slurmd_port=slurmd_port,
        )
        lines = dict(line.split("=", 1) for line in written.splitlines()) | self.overrides
        nodes = [
            f"NodeName=localhost NodeAddr=127.0.0.1 CPUs={self.cpus} RealMemory={self.memory_mb}"
            + (f" Gres=gpu:{self.gpus}" if self.gpus else ""),
            "PartitionName=gpu Nodes=ALL Default=YES MaxTime=1-00:00:00 DefMemPerCPU=100 "
            "PriorityTier=1",
        ]
        if self.preempt:
            nodes.append(
                "PartitionName=urgent Nodes=ALL MaxTime=1-00:00:00 DefMemPerCPU=100 "
                "PriorityTier=10 PreemptMode=OFF"
            )
        (self.folder / "etc/slurm.conf").write_text(
            "\n".join([*(f"{key}={value}" for key, value in lines.items()), *nodes]) + "\n"
        )
        (self.folder / "etc/gres.conf").write_text(
            f"NodeName=localhost Name=gpu File={root}/dev/gpu[0-{self.gpus - 1}]\n"
            if self.gpus
            else ""
        )
        return root

    def _remove_shortcut(self):
        shortcut = self.folder / "run/shortcut"
        if shortcut.is_symlink():
            shutil.rmtree(shortcut.readlink().parent, ignore_errors=True)
            shortcut.unlink()


def _stat(pid):
    """The parent's pid, or None if the process is gone or a zombie."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else int(parent)


def _writes(fd, paths):
    """Whether the entry fd of /proc/<pid>/fd is one of these files, open for writing (a reader may
    be someone's tail -f).
    """
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        if os.readlink(fd) in paths:
            flags = (
                (fd.parent.parent / "fdinfo" / fd.name).read_text().split("flags:")[1].split()[0]
            )
            return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
    return False


@contextlib.contextmanager
def cluster(folder, **options):
    """A running Cluster(folder, **options), stopped at the end."""
    running = Cluster(folder, **options).start()
    try:
        yield running
    finally:
        running.stop()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    for name, text in {
        "start": "start it and print its environment for eval",
        "stop": "stop what runs in the folder",
        "run": "start it, run a command in its environment, stop it, exit as the command did",
    }.items():
        action = actions.add_parser(name, help=text)
        action.add_argument("--folder", type=Path, required=True)
        if name != "stop":
            action.add_argument("--cpus", type=int, default=2)
            action.add_argument("--gpus", type=int, default=2)
            action.add_argument("--memory-mb", type=int, default=8000)
            action.add_argument("--preempt", action="store_true")
            action.add_argument("--enforce-memory", action="store_true")
        if name == "run":
            action.add_argument("command", nargs="+")
    options = vars(parser.parse_args())
    action, command = options.pop("action"), options.pop("command", None)
    if action == "start":
        for key, value in Cluster(**options).start().environment.items():
            print(f"export {key}={shlex.quote(value)}")
    elif action == "stop":
        Cluster(**options).stop()
    else:
        signal.signal(
            signal.SIGTERM, lambda number, _: sys.exit(128 + number)
        )  # so that the cluster stops with us
        with cluster(**options) as running:
            sys.exit(running.run(*command, timeout=None, capture_output=False).returncode)


if __name__ == "__main__":
    main()
