"""Kill the program at random moments until it is done; compare with an unbroken run. `make soak` does it at length."""
import argparse
import glob
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import datamanager

COMMAND = [sys.executable, os.path.join(ROOT, 'run.py'), '--size', '32', '--epoch', '3', '--batch', '16']
PHASES = (('testing', 'results/test.part'), ('saving', 'checkpoints/*temp*'), ('epochs', 'results/tensorboard/*'),
          ('before the first step', 'checkpoints/lock'), ('cache', 'cache/*.part'))  # by what was written last


def unbroken(folder):
    """Seconds that one run takes from an empty folder to the end."""
    began = time.time()
    subprocess.run(COMMAND, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.time() - began


def killed(folder, kills, longest, seed):
    """Run with `kills` SIGKILLs, each after up to `longest` seconds, then to the end; {phase: kills that hit it}."""
    chance, phases = random.Random(seed), {}
    for number in range(kills + 1):
        began = time.time()
        with open(os.path.join(folder, 'log'), 'w+b') as log:
            process = subprocess.Popen(COMMAND, cwd=folder, stdout=log, stderr=log)
            try:
                # Every third is let come far, so that the run as a whole goes on.
                process.wait(None if number == kills else longest * chance.uniform(.6 if number % 3 == 2 else .02, 1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                phase = next((name for name, pattern in PHASES if any(
                    os.path.getmtime(path) > began for path in glob.glob(os.path.join(folder, pattern)))), 'start-up')
                phases[phase] = phases.get(phase, 0) + 1
            else:
                log.seek(0)
                assert process.returncode == 0, log.read().decode()
                if number < kills:  # done before its time: begin anew, to be killed elsewhere
                    phases['(was done)'] = phases.get('(was done)', 0) + 1
                    for name in ('cache', 'checkpoints', 'results'):
                        shutil.rmtree(os.path.join(folder, name))
    return phases


def difference(whole, broken):
    """What two folders' outcomes differ by: (log rows equal, largest relative difference of errors, of weights, leftovers)."""
    import tensorflow.compat.v1 as tf
    rows, errors, weights = [], [], []
    for folder in (whole, broken):
        with open(os.path.join(folder, 'results', 'loss.csv')) as file:
            table = [line.split(',') for line in file.read().split()[1:]]
        rows.append([row[:2] for row in table])
        errors.append(np.array([row[4:] for row in table], float))
        reader = tf.train.load_checkpoint(os.path.join(folder, 'checkpoints'))
        weights.append({name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
                        if name.split('/')[0] in ('generator', 'discriminator')})
    left = [name for _, folders, names in os.walk(broken) for name in folders + names
            if name.endswith('.part') or 'temp' in name]
    return (rows[0] == rows[1], float(np.abs(errors[0] / errors[1] - 1).max()),
            max(float(np.abs(weights[0][name] - weights[1][name]).max()) for name in weights[0]), left)


def soak(kills, seed):
    """(phases hit, difference) of one unbroken and one killed run."""
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as broken:
        longest = unbroken(whole)
        phases = killed(broken, kills, longest, seed)
        return phases, difference(whole, broken)


def damaged(number, seed):
    """Load `number` face images with random bytes changed or cut off; {outcome: how many}, nothing but skips and images."""
    chance, outcomes = np.random.RandomState(seed), {'loaded': 0, 'skipped': 0}
    face = Image.open(os.path.join(datamanager.packaged_faces()[0], 's1', '1.pgm')).resize((48, 56))
    colour, kinds = face.convert('RGB'), []
    images = [('jpeg', colour, {}), ('png', face.convert('P'), {}), ('bmp', colour, {}), ('ppm', face, {}),
              ('png', face.convert('RGBA'), {}), ('mpo', colour, {'save_all': True, 'append_images': [colour]})]
    if 'HEIF' in datamanager.FORMATS:
        images += [('heif', colour, {}), ('webp', colour, {}), ('avif', face.convert('RGBA'), {}), ('tiff', colour, {}),
                   ('tiff', colour, {'compression': 'jpeg'}), ('tiff', face, {'compression': 'tiff_lzw'})]
    for kind, image, options in images:
        file = io.BytesIO()
        image.save(file, kind, **options)
        kinds.append(file.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'face')
        for i in range(number):
            whole = bytearray(kinds[i % len(kinds)])
            start = 64 if chance.rand() < .5 else len(whole)  # half of them in the header, where it hurts
            for place in chance.randint(0, start, chance.randint(1, 20)):
                whole[place] = chance.randint(256)
            if chance.rand() < .2:
                del whole[chance.randint(len(whole)):]
            with open(path, 'wb') as file:
                file.write(whole)
            try:
                image = datamanager.load_image(path, 32, 32, 3)
                assert image.shape == (32, 32, 3) and image.dtype == np.uint8
                outcomes['loaded'] += 1
            except datamanager.DataError as error:
                assert path in str(error) and '\n' not in str(error)
                outcomes['skipped'] += 1
    return outcomes


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=40)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--damaged', type=int, default=5000)
    options = parser.parse_args()
    print('damaged images: %s' % damaged(options.damaged, options.seed))
    phases, (rows, errors, weights, left) = soak(options.kills, options.seed)
    print('SIGKILL in: ' + ', '.join('%s %d' % item for item in sorted(phases.items())))
    print('rows of loss.csv as in the unbroken run: %s; largest relative difference of their numbers: %.2g; largest '
          'difference of a weight: %.2g; temporary files left: %s' % (rows, errors, weights, left or 'none'))
    sys.exit(not rows or errors > 1e-3 or bool(left))
