"""The table of faults: what user code does wrong, in which phase, and how that has to end.

Data only. `driving.py` carries a case out; the tests and `benchmarks/faults.py` share both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autobatch.engines.worker_failures import START_TRIALS

START_PHASES = ("import", "open", "build")
TRIAL_PHASES = ("load", "forward", "backward", "step", "evaluation")
# `check`: a forward pass of the generalization check, when all sizes are measured.
PHASES = (*START_PHASES, *TRIAL_PHASES, "check", "shutdown")
# In the phases of a trial a fault strikes above this size: there are rows to keep then.
SOUND_SIZES = (1, 2)

# How a case may end: the outcome of a trial, the code of an error, or a check that was given up.
OK, CRASHED, TIMEOUT, OUT_OF_MEMORY, NOT_RUN = "ok", "crashed", "timeout", "out_of_memory", "not_run"
# An error of the user's code at the larger sizes: it bounds the answer, and its row says why.
FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Statements that user code runs, and the end that they must come to in each phase.

    `start` and `trial` are the ends in the phases of a session's start and of a trial, `ends` those of single
    phases. What fails a trial fails the check as well, and no more than that; at shutdown all is well,
    whatever happens. `quick`: the phases of the fast tier. `once`: it strikes once a session, but again and
    again in a check that it must end: a single error costs only one of the check's measurements.
    `needs`: what `Bench.missing` looks for first.
    """

    name: str
    code: str
    start: str = OK
    trial: str = OK
    ends: Mapping[str, str] = field(default_factory=dict)
    phases: tuple[str, ...] = PHASES
    quick: tuple[str, ...] = ()
    once: bool = True
    trial_timeout_seconds: float = 60.0
    memory_bytes: int | None = None
    needs: str = ""

    def end(self, phase: str) -> str:
        """How it must end in a phase."""
        if phase in self.ends:
            return self.ends[phase]
        if phase == "check":
            return OK if self.trial == OK else NOT_RUN
        return OK if phase == "shutdown" else self.start if phase in START_PHASES else self.trial


@dataclass(frozen=True, slots=True)
class Case:
    """One fault in one phase."""

    fault: Fault
    phase: str

    @property
    def name(self) -> str:
        return f"{self.fault.name}-{self.phase}"

    @property
    def end(self) -> str:
        return self.fault.end(self.phase)

    @property
    def once(self) -> bool:
        """True where it strikes once a session."""
        return self.fault.once and not (self.phase == "check" and self.end == NOT_RUN)

    @property
    def trial_timeout_seconds(self) -> float:
        """The limit of a trial; a start that hangs then ends after the fault's timeout too."""
        timeout_seconds = self.fault.trial_timeout_seconds
        return timeout_seconds / START_TRIALS if self.end == "start_timeout" else timeout_seconds

    @property
    def rows(self) -> tuple[int, ...]:
        """Sizes that must be among the rows in the end."""
        if self.phase in START_PHASES and self.end != OK:
            return ()
        return (*SOUND_SIZES, 4) if self.end in (OK, NOT_RUN) else SOUND_SIZES


def _died(name: str, code: str, *quick: str) -> Fault:
    return Fault(name=name, code=code, start="worker_died", trial=CRASHED, quick=quick)


def _hung(name: str, code: str, *quick: str) -> Fault:
    # Long enough for a step on a busy machine: with 2 s, sound steps timed out beside 14 other programs.
    return Fault(
        name=name, code=code, start="start_timeout", trial=TIMEOUT, quick=quick, trial_timeout_seconds=5.0
    )


_IGNORE = "for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(one, signal.SIG_IGN)"

DEATHS = (
    _died("SIGKILL", "os.kill(os.getpid(), signal.SIGKILL)", "forward", "check"),
    _died("segmentation fault", "ctypes.string_at(0)", "import", "backward"),
    _died("abort", "os.abort()", "build"),
    _died("os._exit(0)", "os._exit(0)", "step"),
    _died("SIGTERM to itself", "os.kill(os.getpid(), signal.SIGTERM)", "open"),
    _died("SIGKILL to its group", "os.killpg(0, signal.SIGKILL)", "import"),
    # SIGXCPU comes when a second of the processor's time is spent.
    _died(
        "limit of processor time",
        "used = int(time.process_time())\nresource.setrlimit(resource.RLIMIT_CPU, (used + 1, used + 1))\n"
        "while True: pass",
        "build",
    ),
    Fault(
        name="SIGKILL to the worker behind it",
        code="os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(1000)",
        start="worker_died",
        trial=CRASHED,
        # Each costs the seconds of a new worker.
        phases=("build", "backward", "check"),
        quick=("build",),
    ),
    Fault(
        name="kernel out of memory",
        code="""
with open(os.path.join(os.environ["AUTOBATCH_TEST_CGROUP"], "cgroup.procs"), "w") as file:
    file.write(str(os.getpid()))
kept = []
while True:
    kept.append(bytearray(os.urandom(4096)) * 4096)
""",
        start="worker_died",
        trial=CRASHED,
        quick=("forward",),
        needs="cgroup",
    ),
)

HANGS = (
    _hung("sleep", "time.sleep(1000)", "import", "load"),
    # PyDLL keeps the interpreter's lock, as a busy extension does.
    _hung("lock held, signals ignored", f"{_IGNORE}\nctypes.PyDLL(None).sleep(1000)", "evaluation"),
    _hung("stopped", "os.kill(os.getpid(), signal.SIGSTOP)", "forward"),
    _hung(
        "waits for a lock", f"{_IGNORE}\nlock = threading.Lock(); lock.acquire(); lock.acquire()", "backward"
    ),
)

# An evaluation that fails is repeated in another mode, in which a single error does not come again.
_IN_EVALUATION = {"evaluation": OK}
RAISES = (
    Fault(
        name="exception",
        code="raise ValueError('on purpose')",
        start="target_raises",
        trial=FAILED,
        ends=_IN_EVALUATION,
        quick=("open", "load", "backward", "check"),
    ),
    Fault(
        name="sys.exit",
        code="sys.exit(3)",
        start="target_exits",
        trial=FAILED,
        quick=("build", "step"),
    ),
    Fault(
        name="a single exception",
        code="raise ValueError('on purpose')",
        phases=("check",),
        quick=("check",),
    ),
    Fault(
        name="KeyboardInterrupt",
        code="raise KeyboardInterrupt",
        start="target_raises",
        trial=FAILED,
        quick=("import", "evaluation"),
    ),
    Fault(
        name="cancelled",
        code="import asyncio\nraise asyncio.CancelledError",
        start="target_raises",
        trial=FAILED,
        quick=("forward",),
    ),
    Fault(
        name="asks for too much memory",
        code="torch.empty(1 << 60)",
        start="nothing_fits",
        trial=OUT_OF_MEMORY,
        ends={"import": "target_raises"},
        quick=("build", "forward"),
    ),
    Fault(
        name="exception in a DataLoader worker",
        code="""
class Broken(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): raise ValueError("on purpose")
next(iter(torch.utils.data.DataLoader(Broken(), num_workers=2, multiprocessing_context="fork")))
""",
        start="target_raises",
        trial=FAILED,
        ends=_IN_EVALUATION,
        quick=("load",),
    ),
    Fault(
        name="killed DataLoader worker",
        code="""
class Dying(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): os.kill(os.getpid(), signal.SIGKILL)
next(iter(torch.utils.data.DataLoader(Dying(), num_workers=2, multiprocessing_context="fork")))
""",
        start="target_raises",
        trial=FAILED,
        ends=_IN_EVALUATION,
        quick=("evaluation",),
    ),
    Fault(
        name="no shared memory",
        code="""
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x44000, None):
    raise OSError(ctypes.get_errno(), "unshare")
if libc.mount(b"none", b"/dev/shm", b"tmpfs", 1, b"size=4k"):
    raise OSError(ctypes.get_errno(), "mount")
next(iter(torch.utils.data.DataLoader(Rows(), num_workers=1, multiprocessing_context="fork")))
""",
        start="target_raises",
        trial=FAILED,
        ends=_IN_EVALUATION,
        # The data set that it loads from is there from then on.
        phases=("build", *TRIAL_PHASES, "check", "shutdown"),
        quick=("forward",),
        needs="mount",
    ),
)

DATA = (
    Fault(
        name="data set shrinks",
        code="Rows.real = 2",
        start="bad_sample",
        trial=FAILED,
        # The largest size has passed by then.
        ends={"evaluation": OK},
        phases=("build", *TRIAL_PHASES, "check"),
        quick=("step",),
    ),
    Fault(
        name="data set gives fewer samples at once",
        code="return found[:-1]",
        trial=FAILED,
        phases=("load",),
        quick=("load",),
        once=False,
    ),
    Fault(
        name="NaN loss",
        code="Net.scale = float('nan')",
        start="loss_not_finite",
        trial=FAILED,
        ends={"evaluation": OK},
        phases=("build", *TRIAL_PHASES, "check"),
        quick=("build", "forward"),
        once=False,
    ),
    Fault(
        name="model file deleted",
        code="os.unlink(__file__)\nos.kill(os.getpid(), signal.SIGKILL)",
        start="worker_died",
        trial="no_file",
        quick=("forward",),
    ),
    Fault(
        name="model file replaced",
        code="""
text = Path(__file__).read_text().replace("\\nPHASE =", "\\nPHASE = None #")
Path(__file__).write_text(text.replace("nn.Linear(8, 4)", "nn.Linear(8, 4, bias=False)"))
os.kill(os.getpid(), signal.SIGKILL)
""",
        start="worker_died",
        trial="target_changed",
        quick=("step",),
    ),
    Fault(
        name="model file replaced by a broken one",
        code="Path(__file__).write_text('def')\nos.kill(os.getpid(), signal.SIGKILL)",
        start="worker_died",
        trial="target_raises",
        quick=("backward",),
    ),
)

LEAKS = (
    Fault(
        name="leaks memory every step",
        code="trouble.kept = [*getattr(trouble, 'kept', ()), torch.ones(40 << 20)]",
        trial=OUT_OF_MEMORY,
        phases=("forward", "backward", "step", "check"),
        quick=("step",),
        once=False,
        memory_bytes=300 << 20,
    ),
)

_LONELY = (
    "import os, signal, time\n"
    "for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(one, signal.SIG_IGN)\n"
    "time.sleep(1000)\n"
)
HARMLESS = (
    Fault(
        name="torch settings",
        code="""
torch.set_default_dtype(torch.float64)
torch.set_num_threads(2)
torch.use_deterministic_algorithms(True)
torch.set_default_dtype(torch.float32)
torch.manual_seed(7)
""",
        quick=("import",),
    ),
    Fault(
        name="gradients off",
        code="torch.set_grad_enabled(False)",
        start="step_fails",
        trial=FAILED,
        # The next forward pass meets it; what is set in a backward pass or an evaluation is put back.
        ends={"evaluation": OK, "backward": OK},
        quick=("build", "load"),
    ),
    Fault(
        name="megabytes of output",
        code="print('x' * 5_000_000)\nprint('y\\n' * 100_000, file=sys.stderr)",
        quick=("load",),
    ),
    Fault(
        name="megabytes without a newline",
        code="sys.stderr.write('no newline' * 300_000); os.write(1, bytes(1_000_000)); os.write(2, b'\\xff')",
        quick=("forward",),
    ),
    Fault(
        name="threads",
        code="for _ in range(20): threading.Thread(target=time.sleep, args=(1000,)).start()",
        quick=("build",),
    ),
    Fault(
        name="processes that detach and ignore signals",
        code=f"""
for _ in range(2): subprocess.Popen([sys.executable, "-c", {_LONELY!r}], start_new_session=True)
subprocess.run("setsid sleep 1000 & (trap '' TERM INT HUP; sleep 1000) &", shell=True)
""",
        quick=("load", "shutdown"),
    ),
    Fault(
        name="processes left by a crash",
        code="""
subprocess.run("setsid sleep 1000 & setsid setsid sleep 1000 &", shell=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        start="worker_died",
        trial=CRASHED,
        quick=("build",),
    ),
    Fault(
        name="a fork that goes on as the session",
        code="os.fork()",
        quick=("forward",),
    ),
    Fault(
        name="a fork that exits",
        code="if os.fork() == 0: sys.exit(5)",
        quick=("step",),
    ),
    Fault(
        name="shared memory",
        code="""
from multiprocessing import shared_memory
name = f"{os.environ['AUTOBATCH_TEST_MARK']}-{os.getpid()}"
trouble.block = shared_memory.SharedMemory(name, create=True, size=1 << 20)
""",
        quick=("import",),
    ),
    Fault(
        name="shared memory and a crash",
        code="""
from multiprocessing import shared_memory
name = f"{os.environ['AUTOBATCH_TEST_MARK']}-{os.getpid()}"
trouble.block = shared_memory.SharedMemory(name, create=True, size=1 << 20)
os.kill(os.getpid(), signal.SIGKILL)
""",
        start="worker_died",
        trial=CRASHED,
        quick=("evaluation",),
    ),
    Fault(name="closes descriptors", code="os.closerange(0, 11)", quick=("import", "backward")),
    Fault(name="changes folder", code="os.chdir('/')\nsys.path.clear()", quick=("import",)),
    Fault(
        name="signal handlers",
        code="for one in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    if one < 32: signal.signal(one, signal.SIG_IGN)",
        quick=("evaluation",),
    ),
    Fault(
        name="limit of open files",
        code="resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
        # What the machine has in memory can't be read then.
        start="start_fails",
        quick=("load",),
    ),
    Fault(
        name="limit of data",
        code="resource.setrlimit(resource.RLIMIT_DATA, (1 << 20, 1 << 20))",
        start="start_fails",
        # Later on, this small model finds room in what the process holds already; the check does not.
        ends={"build": OK, "check": NOT_RUN},
        quick=("open",),
    ),
    Fault(
        name="limit of file size",
        code="resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
        quick=("build",),
    ),
    Fault(
        name="limit of processes",
        code="resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))",
        quick=("step",),
    ),
)

FAULTS = (*DEATHS, *HANGS, *RAISES, *DATA, *LEAKS, *HARMLESS)


# Every fault in every phase that it can strike in, and of these the cases of the fast tier.
MATRIX = tuple(Case(fault, phase) for fault in FAULTS for phase in fault.phases)
QUICK = tuple(Case(fault, phase) for fault in FAULTS for phase in fault.quick)
