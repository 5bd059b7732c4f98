"""Real faces at small sizes, and the program run as its users run it."""
import contextlib
import io
import os
import subprocess
import sys
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
warnings.filterwarnings('ignore', category=FutureWarning)

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import datamanager
from run import front_door

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_v2_behavior()


def pytest_collection_modifyitems(items):
    """The longest test first: as the last one it would leave a core idle."""
    items.sort(key=lambda item: item.module.__name__ != 'test_runtimes')


def run(folder, *arguments, python=None):
    """`run.py ARGUMENTS`, finished, in `folder`: by an interpreter, or in this process, as a notebook does, which is sooner done."""
    arguments = [os.fsdecode(a) if isinstance(a, bytes) else str(a) for a in arguments]
    if python:
        return subprocess.run([python, os.path.join(ROOT, 'run.py')] + arguments, cwd=str(folder),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    said, here = [io.StringIO(), io.StringIO()], os.getcwd()
    os.chdir(str(folder))
    try:
        with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
            status = front_door(arguments)
    except SystemExit as end:
        status = end.code
    finally:
        os.chdir(here)
    return subprocess.CompletedProcess(arguments, status, *[stream.getvalue() for stream in said])


def read_terminal(terminal, words=None):
    """The bytes that come out of a pseudo-terminal, up to some words or to its end."""
    seen = b''
    try:
        while words is None or words not in seen:
            part = os.read(terminal, 400)
            if not part:
                break
            seen += part
    except OSError:  # the end, on Linux
        pass
    return seen


@pytest.fixture(autouse=True)
def graph():
    """Each test in a graph of its own."""
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        yield


def face_paths():
    """The packaged faces, sorted."""
    root, names = datamanager.packaged_faces()
    return [os.path.join(root, name) for name in names]


@pytest.fixture(scope='session')
def colour_faces(tmp_path_factory):
    """A folder of 40 tinted faces, 64x48, as JPEGs: strong red, weak blue, so that a swapped order shows."""
    folder = tmp_path_factory.mktemp('colour faces')
    for i, path in enumerate(face_paths()[::10]):
        grey = np.asarray(Image.open(path).resize((48, 64)), np.float32)
        Image.fromarray(np.stack([grey, grey * .6, grey * .2], 2).astype(np.uint8)).save(
            str(folder / ('%02d.jpg' % i)), quality=95)
    return folder


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """The folder in which two epochs on the packaged faces at 32x32 were run, and the finished process."""
    folder = tmp_path_factory.mktemp('trained')
    return folder, run(folder, '--size', 32, '--epoch', 2, '--batch', 16, python=sys.executable)
