"""What the benchmarks share: the program run as its users run it, and tables."""
import csv
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, 'data')  # what data.py makes
STUDENT = os.path.join(ROOT, 'tests', 'benchmarks', 'student.py')
sys.path.insert(0, ROOT)


def python(runtime):
    """The interpreter of a runtime, 'tf1' or 'tf2', that `make` has set up; without one, this one."""
    path = os.path.join(ROOT, {'tf1': '.venv', 'tf2': '.venv-tf2'}[runtime], 'bin', 'python') if runtime else sys.executable
    if not os.path.exists(path):
        sys.exit('%s is not there: make test RUNTIME=%s sets it up' % (path, runtime))
    return path


def call(command, cwd):
    """Standard output of a command; ends this program where it fails."""
    process = subprocess.run([str(part) for part in command], cwd=str(cwd), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, universal_newlines=True)
    if process.returncode:
        sys.exit('%s\n%s%s' % (' '.join(str(part) for part in command), process.stdout, process.stderr))
    return process.stdout


def program(folder, *arguments, runtime=None, change=''):
    """Output of `python run.py ARGUMENTS` in `folder`, after the Python statements `change` to its modules."""
    start = os.path.join(ROOT, 'run.py'),
    if change:
        start = '-c', ('import sys; sys.path.insert(0, %r); import run, datamanager, neuralnet, tf_process\n%s\n'
                       'sys.exit(run.front_door())' % (ROOT, change))
    return call((python(runtime),) + start + arguments, folder)


def read_table(path, delimiter=','):
    """The rows of a CSV file, each a dictionary of strings."""
    with open(path, newline='') as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def row(cells):
    """A line of a Markdown table."""
    return '| %s |' % ' | '.join(str(cell) for cell in cells)


def table(header, rows):
    """A Markdown table of header and rows."""
    return '\n'.join(row(cells) for cells in [header, ['---'] * len(header)] + list(rows))
