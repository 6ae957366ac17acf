"""Programs as forks of a process that has imported what they need.

Importing takes most of the time of a small launch. A fork is a process like any other: it has its
own arguments, streams, folder and exit status, and computes with its own devices.

    python tests/forks.py

reads one request per line from standard input and answers each with a line, until there are no
more.
"""

import contextlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 300  # after which a fork is killed
LAUNCH = str(ROOT / 'launch.py')


class Forks:
  """A process that has imported what launch.py does, in an environment; `run` forks it."""

  def __init__(self, environment):
    self.server = subprocess.Popen(
      [sys.executable, __file__],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=environment | {'PYTHONPATH': str(ROOT)},
      text=True,
    )

  def run(self, words, folder, program=LAUNCH, stdin=b''):
    """Runs a program to its end in a folder; returns the finished process.

    program: a file's path, or a module's name. stdin: its standard input. Its output is bytes.
    """
    with tempfile.TemporaryDirectory() as said:
      streams = [pathlib.Path(said) / name for name in ('in', 'out', 'err')]
      streams[0].write_bytes(stdin)
      request = program, [str(word) for word in words], str(folder), [*map(str, streams)]
      print(json.dumps(request), file=self.server.stdin, flush=True)
      status = int(self.server.stdout.readline())
      return subprocess.CompletedProcess(
        [program, *words], status, *(path.read_bytes() for path in streams[1:])
      )

  def close(self):
    self.server.stdin.close()
    self.server.wait()


def load():
  """Imports what a launch does from its start to its report, except `rnnlab.launch` itself.

  That module reads the command's name and words on import.
  """
  import rnnlab.predict
  import rnnlab.reports.figures
  import rnnlab.reports.report
  import rnnlab.runs.run
  import rnnlab.sweeps.conduct
  import rnnlab.sweeps.executors.process
  import rnnlab.tasks.classification  # noqa: F401


def serve():
  """Answers each request with the exit status of a fork, in the form of `subprocess`."""
  load()
  requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), 'w')
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  for line in requests:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # JAX's, about forks: no threads run yet
      child = os.fork()
    if not child:
      become(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def become(program, words, folder, streams):
  """Runs a program in this process, and ends it."""
  signal.alarm(SECONDS)
  os.chdir(folder)
  for number, path in enumerate(streams):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
  sys.argv = [program, *words]
  status = 1
  try:
    if program.endswith('.py'):
      runpy.run_path(program, run_name='__main__')
    else:
      runpy.run_module(program, run_name='__main__', alter_sys=True)
    status = 0
  except SystemExit as end:
    status = end.code or 0
  except BaseException:
    traceback.print_exc()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(status)


if __name__ == '__main__':
  serve()
