"""Several processes are one run: same numbers, one cause in one line, and it goes on."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml

from launch import local
from launch.cli import LOST
from reduction import processes
from reduction.errors import TryAgain, UsageError

ROOT = pathlib.Path(__file__).parent.parent.parent
SMALL = '--config=tests/faults/small.py', '--config.seeds=(0,1)'


def rows(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def assert_close(a, b):
  """Whether rows are the same to 1e-5, or for accuracies to one example."""
  assert len(a) == len(b)
  for one, other in zip(a, b):
    assert one.keys() == other.keys()
    for key, value in one.items():
      if isinstance(value, list) and value and isinstance(value[0], float):
        np.testing.assert_allclose(value, other[key], rtol=2e-5, atol=0.004 * ('acc' in key))


def run(module, *flags, env=None, **more):
  """A started `python -m launch.<module>`; four devices in all for two processes."""
  two = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'
  own = {**os.environ, 'XLA_FLAGS': two, **(env or {})}
  return subprocess.Popen([sys.executable, '-m', f'launch.{module}', *flags], env=own, cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def ended(child):
  """(exit code, its last line on stderr)."""
  _, err = child.communicate(timeout=120)
  return child.returncode, err.strip().splitlines()[-1] if err.strip() else ''


@pytest.fixture(scope='module')
def alone(tmp_path_factory, launch):
  """The rows of one process on four devices."""
  workdir = tmp_path_factory.mktemp('alone') / 'run'
  assert launch(*SMALL, '--mesh=4', f'--workdir={workdir}').code == 0
  return rows(workdir)


@pytest.mark.slow
def test_a_killed_pair_of_processes_goes_on_as_one(tmp_path, launch, alone):  # faults 45 and 46
  flags = (*SMALL, f'--workdir={tmp_path}/run')
  crash = dict(REDUCTION_CRASH_AT='levels:1')
  code, line = ended(run('local', '--num_processes=2', '--', *flags, env=crash))
  assert code == 75 and re.fullmatch(
    r'error: process \d was killed \(SIGKILL\); run the same line again to go on', line
  ), line
  result = launch(*flags, '--mesh=4')
  assert result.code == 0, result.err
  assert_close(rows(tmp_path / 'run'), alone)


@pytest.mark.slow
def test_two_processes_agree_with_one_and_sigterm_saves(tmp_path, alone):
  workdir = tmp_path / 'run'
  flags = ('--num_processes=2', '--', *SMALL, f'--workdir={workdir}')
  child = run('local', *flags)
  end = time.monotonic() + 60
  while not (workdir / 'metrics.jsonl').exists() and time.monotonic() < end:
    time.sleep(0.05)
  child.send_signal(signal.SIGTERM)
  code, line = ended(child)
  assert (code, line) == (143, 'error: stopped and saved; run the same line again to go on')
  code, line = ended(run('local', *flags))
  assert code == 0, line
  assert_close(rows(workdir), alone)


@pytest.mark.slow
def test_a_stopped_process_is_named(tmp_path):  # fault 45
  flags = ('--num_processes=2', '--stuck=12', '--', *SMALL, f'--workdir={tmp_path}/run')
  child = run('local', *flags)
  listed = pathlib.Path(f'/proc/{child.pid}/task/{child.pid}/children')
  runs = lambda pid: 'launch.run' in pathlib.Path(f'/proc/{pid}/cmdline').read_text()
  while len(started := listed.read_text().split()) < 2 or not runs(started[1]):
    time.sleep(0.02)
  os.kill(int(started[1]), signal.SIGSTOP)
  code, line = ended(child)
  assert code == 75 and 'no progress for 12 s' in line and 'process 1 is stopped' in line, line


def test_a_value_that_is_wrong_is_said_once(tmp_path):
  flags = (*SMALL, '--config.lottery.rounds=-1', f'--workdir={tmp_path}/run')
  code, line = ended(run('local', '--num_processes=2', '--', *flags))
  assert code == 2 and re.match(r'error: process \d: rounds=-1 must not be negative', line), line


@pytest.mark.parametrize(
  'first, second, line',
  [
    ((-signal.SIGSEGV, ''), (2, 'error: rounds=-1'), 'process 1: rounds=-1'),
    ((-signal.SIGABRT, ''), (2, 'error: rounds=-1'), 'process 1: rounds=-1'),
    ((75, f'error: {LOST}'), (-signal.SIGKILL, ''), 'process 1 was killed (SIGKILL)'),
    ((-signal.SIGSEGV, ''), (143, 'stopped and saved'), 'stopped and saved'),
    ((143, 'stopped and saved'), (-signal.SIGKILL, ''), 'process 1 was killed (SIGKILL)'),
    ((75, f'error: {LOST}'), (-signal.SIGSEGV, ''), 'process 1 was killed (SIGSEGV)'),
    ((-signal.SIGABRT, ''), (75, f'error: {LOST}'), 'process 0 ended: code -6'),
  ],
)  # fmt: skip
def test_what_a_process_said_counts_before_what_became_of_the_other(first, second, line):
  """A process whose other has left may crash in JAX's runtime before it says the same."""

  def left(index, code, text):
    """A process as `launch.local` watches it that wrote text and exited with code."""
    own = f'import os, signal; print({text!r}, flush=True); '
    end = f'os.kill(os.getpid(), {-code})' if code < 0 else f'os._exit({code})'
    p = local.Process.__new__(local.Process)
    p.index, p.lines = index, []
    p.child = subprocess.Popen([sys.executable, '-c', own + end], stdout=subprocess.PIPE, text=True)
    p.reader = threading.Thread(target=p._pass_on)
    p.reader.start()
    p.child.wait()
    return p

  found = local.cause([left(0, *first), left(1, *second)])
  assert str(found).startswith(line)


def emulated(name, index, port):
  """The environment of one of two processes of a cluster."""
  if name == 'SLURM':
    return dict(
      SLURM_JOB_ID=str(port - (65535 - 2**12 + 1)), SLURM_STEP_NODELIST='localhost',
      SLURM_NTASKS='2', SLURM_PROCID=str(index), SLURM_LOCALID=str(index),
    )  # fmt: skip
  job = (port - (65535 - 2**12 + 1)) * 2**12
  return dict(
    OMPI_MCA_orte_hnp_uri=f'{job}.0;tcp://127.0.0.1:1', OMPI_COMM_WORLD_SIZE='2',
    OMPI_COMM_WORLD_RANK=str(index), OMPI_COMM_WORLD_LOCAL_RANK=str(index),
  )  # fmt: skip


@pytest.mark.slow
def test_a_process_that_lost_another_says_so(tmp_path):
  port = 65535 - 2**12 + 1 + os.getpid() % 1_000 + 1_000
  flags = (*SMALL, f'--workdir={tmp_path}/run')
  crash = dict(REDUCTION_CRASH_AT='levels:0')
  children = [
    run('run', *flags, env={**emulated('SLURM', index, port), **(crash if index else {})})
    for index in (0, 1)
  ]
  survivor, dead = map(ended, children)
  assert dead[0] == -signal.SIGKILL
  assert survivor[0] in (75, -signal.SIGABRT), survivor  # the runtime may end it unheard
  if survivor[0] == 75:
    assert survivor[1] == (
      'error: another process of this run has ended; run the same line again to go on'
    )


CLUSTERS = ('SLURM', ()), ('Open MPI', ('--config.lottery.batch=20',))


@pytest.mark.slow
@pytest.mark.parametrize('name, second', CLUSTERS)
def test_processes_of_a_cluster_find_each_other(tmp_path, alone, name, second):
  port = 65535 - 2**12 + 1 + os.getpid() % 2_000 + (2_000 if second else 0)
  flags = (*SMALL, f'--workdir={tmp_path}/run')
  children = [
    run('run', *flags, *(second if index else ()), env=emulated(name, index, port))
    for index in (0, 1)
  ]
  found = [ended(child) for child in children]
  if second:  # told another config than process 0
    says = 'error: process 1 has another config than process 0; give all the same'
    assert found == [(2, says)] * 2
    assert not (tmp_path / 'run' / 'config.json').exists()
  else:
    assert [code for code, _ in found] == [0, 0], found
    assert_close(rows(tmp_path / 'run'), alone)


@pytest.mark.parametrize(
  'environment, name',
  [
    ({}, None), (dict(SLURM_NTASKS='4'), None),  # an allocation without a step
    (dict(SLURM_NTASKS='4', SLURM_STEP_NODELIST='n[1-4]'), 'SLURM'),
    (dict(SLURM_NTASKS='1', SLURM_STEP_NODELIST='n1'), None),
    (dict(OMPI_COMM_WORLD_SIZE='2'), 'Open MPI'), (dict(TPU_WORKER_HOSTNAMES='a,b'), 'TPU pod'),
    (dict(TPU_WORKER_HOSTNAMES='localhost'), None),
  ],
)  # fmt: skip
def test_clusters_are_known_by_their_environment(environment, name):
  assert processes.cluster(environment) == name


def test_a_wrong_process_number_is_one_line():
  with pytest.raises(UsageError, match='say INDEX/COUNT and host:port'):
    processes.start(dict(REDUCTION_PROCESS='1-2', REDUCTION_COORDINATOR='localhost:1'))


def test_one_process_needs_no_others():
  assert processes.everywhere(lambda: 3) == processes.agree(3) == 3
  processes.require_same('config', 'abc')
  processes.require_one('this')
  with pytest.raises(TryAgain):
    processes.everywhere(lambda: (_ for _ in ()).throw(TryAgain('x')))


def test_the_noise_of_a_dying_runtime_is_left_out():
  stack = '  File "x.py", line 3 in f'
  noise = '    @     0x7f12 (unknown)', '*** SIGABRT received', 'F0000 00:00 service', stack
  assert all(map(local.NOISE.search, noise))
  assert not local.NOISE.search('  File "x.py", line 3, in f')  # of a traceback, which is a bug's
  assert not local.NOISE.search('error: rounds=-1') and not local.NOISE.search('  12 s  levels 1/2')


SCRIPTS = sorted((ROOT / 'launch/cluster').glob('*.sh'))


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda p: p.name)
def test_cluster_scripts_parse(path):
  assert subprocess.run(['bash', '-n', path]).returncode == 0
  text = path.read_text()
  assert os.access(path, os.X_OK) and re.search(r'-m launch\.(run|sweep) ', text)
  if 'slurm' in path.name:
    lines = re.findall(r'^#SBATCH (--[\w-]+=\S+)$', text, re.M)
    assert '--signal=TERM@120' in lines and len(lines) == text.count('\n#SBATCH')


def test_the_jobset_numbers_its_processes():
  job = yaml.safe_load((ROOT / 'launch/cluster/jobset.yaml').read_text())
  (replicated,) = job['spec']['replicatedJobs']
  spec = replicated['template']['spec']
  (container,) = spec['template']['spec']['containers']
  environment = {e['name']: e.get('value') for e in container['env']}
  assert job['kind'] == 'JobSet' and spec['completionMode'] == 'Indexed'
  assert environment['REDUCTION_PROCESS'] == f'$(INDEX)/{spec["completions"]}'
  host = environment['REDUCTION_COORDINATOR'].split(':')[0]
  assert host == f'{job["metadata"]["name"]}-{replicated["name"]}-0-0.{job["metadata"]["name"]}'
  assert (ROOT / container['args'][0].split('=')[1]).exists()
