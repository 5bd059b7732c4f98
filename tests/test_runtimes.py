"""One model on both runtimes. Skipped where only this one is set up: `make test`, then `make test RUNTIME=tf2`."""
import csv
import os
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, face_paths, run

OTHER = [path for path in (os.path.join(ROOT, name, 'bin', 'python') for name in ('.venv', '.venv-tf2'))
         if os.path.exists(path) and not os.path.samefile(os.path.dirname(path), os.path.dirname(sys.executable))]
GREY_LEVELS = 1  # by which the two runtimes' pictures may differ, of 255
RELATIVE = 1e-4  # by which their errors may


def output(python, folder, *arguments):
    process = run(folder, *arguments, python=python)
    assert process.returncode == 0, process.stderr
    return process.stdout


def outcome(python, folder):
    """(pictures, numbers) that a runtime's test and restoration leave."""
    output(python, folder, '--test_only')
    output(python, folder, '--restore', folder / 'faces')
    results = folder / 'results'
    pictures = [np.asarray(Image.open(str(path))).astype(int)
                for part in ('test', 'restored') for path in sorted((results / part).glob('*.png'))]
    with open(str(results / 'test.csv'), newline='') as file:
        return pictures, [float(row['error']) for row in csv.DictReader(file)]


@pytest.mark.skipif(len(OTHER) != 1, reason='the other runtime is not set up')
def test_a_model_goes_from_one_runtime_to_the_other_and_back(tmp_path):
    (tmp_path / 'faces').mkdir()
    for path in face_paths()[::80]:
        Image.open(path).save(str(tmp_path / 'faces' / (path.replace(os.sep, '_')[-9:] + '.png')))
    options = ['--size', 32, '--batch', 16]
    output(sys.executable, tmp_path, '--epoch', 1, *options)
    for python in (OTHER[0], sys.executable):  # trained on one: tested on both, then trained on by the other
        (pictures, errors), (others, other_errors) = [outcome(each, tmp_path) for each in (sys.executable, OTHER[0])]
        assert len(pictures) == len(others) == 45
        assert max(np.abs(a - b).max() for a, b in zip(pictures, others)) <= GREY_LEVELS
        np.testing.assert_allclose(errors, other_errors, rtol=RELATIVE)
        epochs = 2 if python is OTHER[0] else 3
        assert 'going on from epoch %d' % epochs in output(python, tmp_path, '--epoch', epochs, *options)
